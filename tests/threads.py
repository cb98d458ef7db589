"""Whether threads work at once."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

SECONDS = 20  # before it is given up


def meeting(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The function, the first calls of which wait in their threads until `count` have begun.

    Fewer threads than that break the barrier. Calls of the main thread do not count.
    """
    barrier, calls = threading.Barrier(count), itertools.count()

    def call(*args: Any, **options: Any) -> Any:
        of_thread = threading.current_thread() is not threading.main_thread()
        if of_thread and next(calls) < count:
            barrier.wait(SECONDS)
        return function(*args, **options)

    return call
