"""The Kubeflow pipelines: DAGs, scheduling, compile, submit, rerun, local runner. Imports kfp, never landseg."""
