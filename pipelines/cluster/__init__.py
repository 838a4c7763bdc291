"""Where it runs in earnest: preparing a namespace, submitting to Kubeflow Pipelines, following a run."""
