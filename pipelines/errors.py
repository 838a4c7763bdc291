"""The error that the commands of this package raise on purpose: something the user can fix, explained in one line."""


class UserError(Exception):
    """Says what was expected, what was found and what to do; printed as one line, exit status 2."""
