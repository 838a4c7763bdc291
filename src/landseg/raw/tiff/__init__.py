"""Decoding untrusted TIFFs and PNGs: the header is checked first, then pixels are decoded.

One file at a time, from its bytes. Whether its values suit a dataset is for :mod:`landseg.raw.checks` to say.
"""
