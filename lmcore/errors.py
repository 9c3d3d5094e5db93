"""The exceptions that speak to the person who typed the command."""


class UserError(Exception):
    """What was wrong and what would be right, in one message; shown without a traceback."""


class DiskError(UserError):
    """A file or folder cannot be written: the machine's fault, not that of a recipe."""
