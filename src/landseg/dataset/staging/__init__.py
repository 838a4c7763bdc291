"""How a dataset is made: tiles are checked, reviewed, packed into shards and published. No later stage needs it."""
