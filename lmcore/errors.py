"""The one exception that speaks to the person who typed the command."""


class UserError(Exception):
    """What was wrong and what would be right, in one message; shown without a traceback."""
