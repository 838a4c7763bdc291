"""The ensemble report: its facts, gathered from what averaging found, its sentences and its page."""
