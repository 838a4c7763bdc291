"""What the commands of this package raise on purpose: something the user can fix, explained in one line."""


class UserError(Exception):
    """What was expected, what was found, what to do; printed as one line, exit status 2."""
