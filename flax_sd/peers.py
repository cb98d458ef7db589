"""The processes of a run end together: none waits for one that is gone."""

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator

import jax

from flax_sd import terminal
from flax_sd.errors import UserError

BAD_INPUT, FAILED = 2, 1  # exit statuses
GRACE = 3.0  # seconds that the first process leaves the others for their own last words
# What JAX's transports say when the other end of a connection is not there any more.
GONE = re.compile(
    r"gloo|nccl|coordination service|socket closed|connection (reset|closed|refused)|heartbeat",
    re.IGNORECASE,
)
LOST = (
    "another process of this run is gone, and so this one ends too: look at what that one said "
    "last; what was saved is good, and the same command in every process goes on from there"
)


def is_gone(error: BaseException) -> bool:
    """Whether an error says that another process of the run is not there any more."""
    plain = isinstance(error, jax.errors.JaxRuntimeError | ValueError | RuntimeError)
    return plain and not isinstance(error, UserError) and bool(GONE.search(str(error)))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process at once at an error, where it is one of several.

    Otherwise what follows an error, such as closing checkpoints or leaving JAX's service, would
    wait for minutes for processes that wait for this one, or are gone.
    """
    try:
        yield
    except Exception as error:
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        if is_gone(error):
            terminal.complain(f"error: {LOST}")
        elif isinstance(error, UserError):
            terminal.complain(f"error: {error}")
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        if jax.process_index() == 0:  # with it goes the service that the others need
            time.sleep(GRACE)
        os._exit(BAD_INPUT if is_gone(error) or isinstance(error, UserError) else FAILED)
