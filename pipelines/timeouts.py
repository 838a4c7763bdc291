"""How long a command waits for a server while a person waits for the command."""

TIMEOUT_S = (5.0, 60.0)
"""To connect, and between two bytes of an answer. KFP's own client would wait forever."""
