"""Averaging models: members and weights, label maps, scores of every ensemble, and what is published. No torch."""
