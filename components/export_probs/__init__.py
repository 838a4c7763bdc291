"""export-probs as a KFP component."""
