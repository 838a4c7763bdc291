"""Labels as polygons: read from files of any format that people draw them in, then drawn onto the grids of images."""
