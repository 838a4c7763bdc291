"""stage-data as a KFP component."""
