"""Staged datasets: shards, tile indexes, statistics, scaling; written once, read by every later stage.

How raw files are read and checked belongs to :mod:`landseg.raw`; what models see in a tile beyond bands and scale, to
training and prediction. No torch.
"""
