"""The Kubeflow pipelines: DAGs, scheduling, compile, submit, rerun, local runner. Imports kfp, never landseg."""

import sys

# kfp.local imports the docker SDK where there is one, and where there is none takes this repository's docker/ folder
# for it. Nothing here uses that SDK: --docker calls the docker client.
sys.modules.setdefault("docker", None)  # type: ignore[arg-type]
