"""What the stages hand to each other: documents, manifests, names, errors, and KFP's executor protocol.

Imports nothing else of landseg and nothing that reads pixels, so any program can read a manifest with it.
"""
