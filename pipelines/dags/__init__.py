"""What runs: the pipelines, their steps and their scheduling, compiled to the YAML in `pipelines/compiled/`."""
