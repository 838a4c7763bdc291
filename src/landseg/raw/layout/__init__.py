"""What a source's folders and file names say: splits, roles, tile ids, pairs. No pixels are read."""
