"""What runs: the pipelines, their steps and their scheduling, compiled to the YAML in `pipelines/compiled/`.

Nothing in here contacts a cluster, reads object storage or starts a process; compiling gives the same bytes everywhere.
"""
