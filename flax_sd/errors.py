"""The one exception that stands for a user's mistake, and how its message names many things."""

from collections.abc import Sequence

NAMED = 8  # things that a message names before it counts the rest


class UserError(ValueError):
    """Bad input: one message that names the thing, what was found and what would be right.

    The commands print it without a stack trace and end with status 2 (`--debug` shows the trace).
    """


def some(names: Sequence[str]) -> str:
    """Returns "a, b, c", or the first few of many and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
