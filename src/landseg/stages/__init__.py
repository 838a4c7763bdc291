"""One module per verb, named after it: read inputs, call a room, write outputs; nothing else."""
