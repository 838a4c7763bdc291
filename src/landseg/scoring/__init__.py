"""Scores: confusion matrices, the scores made from them, and how sure they are. Arrays in, numbers out."""
