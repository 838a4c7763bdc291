"""Maps as files: of tiles and of scenes, whose overlapping tiles are stitched; PNGs, GeoTIFFs and archives."""
