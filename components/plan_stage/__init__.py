"""plan-stage as a KFP component."""
