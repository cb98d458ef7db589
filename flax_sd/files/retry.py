"""Retries reads that a network drive or a worn disk fails at first."""

import errno
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

LOGGER = logging.getLogger("flax_sd")
PAUSES = (1, 2, 4, 8, 16, 32)  # seconds: a drive that is away for a minute is waited for
FEW_PAUSES = (1, 2)  # where an image can be left out: not a minute for each of a thousand
# What may be gone the next time. A file that is not there is not among them.
PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
}

Value = TypeVar("Value")


def with_retries(read: Callable[[], Value], name: object, pauses: Sequence[int] = PAUSES) -> Value:
    """Returns the result of `read`, retrying after growing pauses, each of which is announced.

    Args:
      name: of what is read, for the announcement.

    Raises:
      OSError: one that does not pass, or that remains after the last pause.
    """
    for pause in pauses:
        try:
            return read()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            LOGGER.warning(
                "%s cannot be read (%s); trying again in %d s", name, error.strerror, pause
            )
            time.sleep(pause)
    return read()
