"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """Bad input: one message that names the thing, what was found and what would be right.

    The commands print it without a stack trace and end with status 2 (`--debug` shows the trace).
    """
