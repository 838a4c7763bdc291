"""Label values and colours that mean nothing: what each error says of them, with what to write into `dataset.yaml`."""
