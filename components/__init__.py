"""The container components of the pipeline. Imports kfp, never landseg."""
