"""One module per verb: read inputs, call the core, write outputs; nothing else."""
