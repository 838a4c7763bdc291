"""Images as people have them, and what shards hold of them: plain TIFFs, values and masks. GDAL is confined here."""
