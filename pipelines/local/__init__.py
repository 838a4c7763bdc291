"""Where it runs on one machine: the local runner, containers, embedded object storage, the demo."""
