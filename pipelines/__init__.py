"""The Kubeflow pipelines and the command `python -m pipelines`, which compiles, runs and submits them.

`dags` says what runs, `cluster` brings it to Kubeflow, `local` runs it on this machine; what these share is in modules
next to them. Nothing in here imports landseg or does a stage's work: stages are started by their command lines, and a
component's own declaration belongs in `components/`.
"""

import sys

# kfp.local imports the docker SDK where it is installed; where it is not, this repository's docker/ folder is imported
# in its place. Nothing here uses that SDK: --docker calls the docker client.
sys.modules.setdefault("docker", None)  # type: ignore[arg-type]
