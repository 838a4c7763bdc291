"""This machine: the local runner on top of `kfp.local`, steps in containers, the embedded object storage, the demo.

Runs the YAML that `dags` compiles, unchanged. Nothing in here needs a cluster or imports `cluster`.
"""
