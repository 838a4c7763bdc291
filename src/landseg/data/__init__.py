"""Tiles: class schema, reading and validation, shards, the dataset manifest, sample data. No torch."""
