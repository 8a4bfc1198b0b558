"""The one exception that means: the input is wrong, and here is what to do about it."""


class SlimError(Exception):
    """What was expected, what came, where, and what to do. The command line prints it and exits with 2."""
