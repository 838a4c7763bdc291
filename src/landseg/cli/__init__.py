"""The command line: verbs, option parsing, shell completion, progress and log lines on stderr.

No other room is imported here except contracts: `main` finds the verbs by name.
"""
