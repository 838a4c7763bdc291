"""The container components, one folder each: declaration, README and compiled YAML; and what they are built from.

Imports kfp, never landseg: a component knows its stage by the command line alone. How steps are wired and what they may
use belongs in `pipelines/dags`.
"""
