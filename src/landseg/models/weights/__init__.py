"""Weights from files: checkpoints read as data, downloaded, converted to mmseg's names, and loaded into a model."""
