"""Memory: bytes of devices and arrays, their text form, and errors when they run out."""

import contextlib
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from flax_sd.errors import UserError, listed

CHIPS = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # GB of a TPU's chip, by generation
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SIZE = re.compile(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([kmgt]i?|)b?", re.IGNORECASE)

EXHAUSTED = "RESOURCE_EXHAUSTED"  # how XLA begins what it says of memory


def parse_size(text: str) -> int:
    """Returns the bytes of 24GB, 24GiB, 24G or 24e9.

    Raises:
      UserError: it is no such size, or zero.
    """
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * UNITS[found[2].lower()]) if found else 0
    if not size:
        raise UserError(f"--device-memory is {text!r}; a size is written 24GB, 24GiB or 24e9")
    return size


def show_size(size: int | float) -> str:
    """Returns a number of bytes as text, in a fitting decimal unit."""
    if size == math.inf:
        return "more than there is"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def device_memory(device: Any) -> int | None:
    """Returns the bytes that a local device has for a program's arrays; None if unknown.

    A CPU's devices share what the machine has left.
    """
    if device.platform == "cpu":
        left = available()
        return left // jax.local_device_count("cpu") if left else None
    return (device.memory_stats() or {}).get("bytes_limit")


def available(path: pathlib.Path = pathlib.Path("/proc/meminfo")) -> int | None:
    """Returns the bytes of main memory that are still free; None if unknown."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def bytes_per_device(tree: PyTree) -> int:
    """Returns the bytes of the leaves (arrays, or shapes with a sharding) on each device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


@contextlib.contextmanager
def explain_out_of_memory(advice: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Converts out-of-memory errors of the block into a UserError with advice.

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
        raise UserError(listed(head, advice())) from error
