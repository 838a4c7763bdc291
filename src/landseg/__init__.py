"""landseg: train, ensemble and report segmentation models on remote-sensing tiles."""

__version__ = "0.1.0"
