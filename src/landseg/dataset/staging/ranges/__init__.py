"""Ranges of a split's tiles: how they are planned, staged and recorded one by one, and joined into a dataset."""
