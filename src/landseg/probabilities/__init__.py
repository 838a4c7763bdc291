"""How probabilities are stored: codec, layout in shards, writing and reading them. No torch, no averaging."""
