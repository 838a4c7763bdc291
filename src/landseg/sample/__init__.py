"""The sample data: a drawn land of nine classes, to try landseg with before one's own tiles are there."""
