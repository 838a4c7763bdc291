"""The command line: verbs, options, shell completion, and what is said on stderr.

No stage is imported here: `main` finds the verbs by name.
"""
