"""`dataset.yaml`: its fields, the forms in which they may be written, and what is wrong with them."""
