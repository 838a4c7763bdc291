"""train-resnest as a KFP component."""
