"""How a tensor of a single file becomes a component's tensor, and back.

Three kinds differ by more than the name: the VAE's attention is made of 1x1 convolutions, OpenCLIP
packs query, key and value in one tensor, and its projection is `x @ P` where torch's Linear is
`x @ W.T`.
"""

import enum
import re
from collections.abc import Iterator, Mapping

import numpy as np

_CONVOLUTION = re.compile(
    r"(encoder|decoder)\.mid\.attn_1\.((to_)?[qkv]|proj_out|to_out\.0)\.weight"
)
_PACKED = re.compile(r"(.*\.attn)\.in_proj_(weight|bias)")
_UNPACKED = re.compile(r"(.*\.attn)\.([qkv])\.(weight|bias)")
_PROJECTION = "text_projection"


class Change(enum.Enum):
    """What is done to a tensor of the file; Q, K and V take a third of its rows."""

    NONE = "none"
    SQUEEZED = "squeezed"
    TRANSPOSED = "transposed"
    Q = "q"
    K = "k"
    V = "v"

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the component's tensor (a view), of the file's."""
        match self:
            case Change.NONE:
                return tensor
            case Change.SQUEEZED:  # some files have the linear layer already
                return tensor.reshape(tensor.shape[:2]) if {*tensor.shape[2:]} <= {1} else tensor
            case Change.TRANSPOSED:
                return tensor.T
        if tensor.ndim == 0:
            return tensor  # not what it should be, which whoever reads it says
        rows, place = len(tensor) // 3, "qkv".index(self.value)
        return tensor[place * rows : (place + 1) * rows]


def written(parts: Mapping[Change, np.ndarray]) -> np.ndarray:
    """Returns the file's tensor, of the component's one or three."""
    if Change.Q in parts:
        return np.concatenate([parts[Change.Q], parts[Change.K], parts[Change.V]])
    ((change, tensor),) = parts.items()
    match change:
        case Change.SQUEEZED:
            return tensor.reshape(*tensor.shape[:2], 1, 1)
        case Change.TRANSPOSED:
            return np.ascontiguousarray(tensor.T)
    return tensor


def written_shape(parts: Mapping[Change, tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the shape of what `written` makes of tensors of these shapes."""
    if Change.Q in parts:
        return (sum(shape[0] for shape in parts.values()), *parts[Change.Q][1:])
    ((change, shape),) = parts.items()
    match change:
        case Change.SQUEEZED:
            return (*shape[:2], 1, 1)
        case Change.TRANSPOSED:
            return shape[::-1]
    return shape


def unpacked(name: str) -> Iterator[tuple[str, Change]]:
    """Yields the names that a tensor of the file stands for, one for each tensor in it."""
    if packed := _PACKED.fullmatch(name):
        for change in (Change.Q, Change.K, Change.V):
            yield f"{packed[1]}.{change.value}.{packed[2]}", change
    elif _CONVOLUTION.fullmatch(name):
        yield name, Change.SQUEEZED
    elif name == _PROJECTION:
        yield name, Change.TRANSPOSED
    else:
        yield name, Change.NONE


def packed(name: str) -> tuple[str, Change]:
    """Returns the tensor of the file in which a name of `unpacked` is."""
    if third := _UNPACKED.fullmatch(name):
        return f"{third[1]}.in_proj_{third[3]}", Change(third[2])
    return next(unpacked(name))
