"""Scores: confusion matrices, the scores made from them, and their confidence intervals. Arrays in, numbers out."""
