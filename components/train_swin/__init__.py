"""train-swin as a KFP component."""
