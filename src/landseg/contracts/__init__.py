"""What the stages hand to each other, and how they speak: documents, manifests, errors, KFP's executor protocol.

Imports nothing else of landseg, and nothing that reads pixels: any program can read a manifest with it.
"""
