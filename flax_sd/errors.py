"""The exception for a user's mistake, and helpers for its message."""

import unicodedata
from collections.abc import Sequence

MAX_NAMES_IN_MESSAGE = 8  # names in a message before the rest is counted
MAX_PROBLEMS_IN_MESSAGE = 20  # problems in a message, one a line, before the rest is counted
# Control characters, halves of surrogate pairs (bytes that are not UTF-8), and ends of lines.
UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the direction of text


class UserError(ValueError):
    """Bad input: one message that names the thing, what was found and what would be right.

    The commands print it without a stack trace and end with status 2 (`--debug` shows the trace).
    """


def some(names: Sequence[str]) -> str:
    """Returns "a, b, c", or the first few of many and how many more there are."""
    more = len(names) - MAX_NAMES_IN_MESSAGE
    return ", ".join(names[:MAX_NAMES_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")


def listed(head: str, problems: Sequence[str]) -> str:
    """Returns a head and a line for each problem, or for the first of many and how many more.

    A single problem is on the same line as the head.
    """
    if len(problems) == 1:
        return f"{head} {problems[0]}"
    more = len(problems) - MAX_PROBLEMS_IN_MESSAGE
    return "\n  ".join(
        [head, *problems[:MAX_PROBLEMS_IN_MESSAGE], *([f"and {more} more"] if more > 0 else [])]
    )


def all_of(problems: Sequence[str]) -> str:
    """Returns the only problem, or how many there are and a line for each, as `listed`."""
    head = f"{len(problems)} things are wrong:"
    return problems[0] if len(problems) == 1 else listed(head, problems)


def shown(name: object) -> str:
    r"""Returns a name as a terminal can show it: ESC, and what else is unseen, as \x1b."""
    return "".join(repr(sign)[1:-1] if _is_unseen(sign) else sign for sign in str(name))


def _is_unseen(sign: str) -> bool:
    return unicodedata.category(sign) in UNSEEN or sign in TURNING
