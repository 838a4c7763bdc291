"""average-probs as a KFP component."""
