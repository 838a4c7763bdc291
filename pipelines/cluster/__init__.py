"""Kubeflow: preparing a namespace, logging in, checking before a submission, submitting, following a run.

Only this package talks to KFP's API and to Kubernetes. What a pipeline consists of belongs in `dags`.
"""
