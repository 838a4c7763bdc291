"""plan-average as a KFP component."""
