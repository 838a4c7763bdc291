"""What users bring: `dataset.yaml`, sources, archives, layouts, pairs of image and label, TIFFs, georeference, scenes.

Also what is wrong with it: errors, warnings and notes are findings. Nothing here knows how a staged dataset is stored.
"""
