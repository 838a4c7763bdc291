"""What users bring: `dataset.yaml`, sources and archives, pairs of image and label, TIFFs, georeference, scenes.

And what is wrong with them. Nothing here knows how a staged dataset is stored.
"""
