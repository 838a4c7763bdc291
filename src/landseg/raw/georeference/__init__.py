"""Where an image lies: tags, files next to it, coordinate reference systems, and whether a label lies on its image."""
