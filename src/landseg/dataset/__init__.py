"""What is staged: shards, tile indexes, statistics, scaling; written once, read by every later stage. No torch."""
