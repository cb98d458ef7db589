"""A device without room ends a command with a sentence and what helps, and no stack trace."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import jax

from flax_sd.errors import UserError

EXHAUSTED = "RESOURCE_EXHAUSTED"  # how XLA begins what it says of memory


@contextlib.contextmanager
def explained(advice: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Within it a want of memory is a UserError.

    Args:
      advice: returns the flags that would make it smaller.

    Raises:
      UserError: the device, or main memory, was exhausted.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        said = str(error).strip() or "main memory is full"
        if not isinstance(error, MemoryError) and EXHAUSTED not in said:
            raise
        head = f"there is not enough memory ({said.splitlines()[0]}); what makes it smaller:"
        raise UserError("\n  ".join([head, *advice()])) from error
