"""plan-export as a KFP component."""
