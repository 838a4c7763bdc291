"""Probabilities: codec and store, averaging, metrics, disagreement. No torch."""
