"""A tensor that is read, or computed from others, only when it is written."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Deferred(NamedTuple):
    """A tensor whose numbers are not in memory yet.

    Attributes:
      dtype: of the tensor.
      shape: of the tensor.
      read: -> the tensor; called once for each time that it is written.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, source: Mapping[str, np.ndarray], key: str) -> "Deferred":
        """Returns a tensor of a file, which is mapped again when it is read."""
        view = source[key]
        return cls(view.dtype, view.shape, lambda: source[key])


Tensor = np.ndarray | Deferred


def in_memory(tensor: Tensor) -> np.ndarray:
    """Returns the numbers.

    Raises:
      ValueError: a tensor that was read has another dtype or shape than it was said to have.
    """
    if not isinstance(tensor, Deferred):
        return tensor
    array = tensor.read()
    if (array.dtype, array.shape) != (tensor.dtype, tensor.shape):
        raise ValueError(f"{array.dtype} {array.shape} in place of {tensor[:2]}")
    return array
