"""What a model trains on: transforms, batches, and the loader processes that make them. No model in here."""
