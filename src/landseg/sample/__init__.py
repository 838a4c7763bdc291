"""The sample data: drawn land of nine classes, for trying landseg before one's own tiles are at hand.

Drawing and writing raw tiles only: nothing here is used on real data, and nothing here reads a dataset.
"""
