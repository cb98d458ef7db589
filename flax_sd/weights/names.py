"""A module's attribute path is its checkpoint key; what differs between the two is here.

torch calls every leaf `weight` where nnx says kernel, scale or embedding; torch's dense kernels are
[out, in] and its convolutions [out, in, h, w], ours [in, out] and [h, w, in, out].
"""

from typing import Any

import numpy as np

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_WRAPPERS = (
    "base",
)  # a LoRA holds the layer that it wraps in `base`: torch's names have no such level


def checkpoint_key(path: tuple[Any, ...]) -> str:
    """The name in a diffusers or transformers file of the leaf at `path` of a module."""
    *parents, leaf = path
    kept = [str(part) for part in parents if part not in _WRAPPERS]
    return ".".join([*kept, _LEAVES.get(str(leaf), str(leaf))])


def to_torch_layout(path: tuple[Any, ...], array: np.ndarray) -> np.ndarray:
    """The leaf at `path` as torch lays it out (a view)."""
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def from_torch_layout(path: tuple[Any, ...], array: np.ndarray) -> np.ndarray:
    """torch's tensor as the leaf at `path` is laid out here (a view)."""
    if path[-1] != "kernel":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
