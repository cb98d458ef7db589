"""Puts checkpoint tensors into an abstract module, and names a module's tensors as a checkpoint."""

import os
import re
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd.errors import UserError

Path = tuple[Hashable, ...]  # of a leaf inside a module
M = TypeVar("M", bound=nnx.Module)
_ALIGNMENT = 64  # bytes
_THREADS = min(8, os.cpu_count() or 1)
_POOL = ThreadPoolExecutor(_THREADS)
DTYPES = ("float32", "bfloat16", "float16")
# Not read by transformers' CLIPTextModel: a constant (int64 0 … 76) that used to be saved with it,
# and the rest of a whole CLIP, or of one with a projection.
_IGNORED = re.compile(
    r"text_model\.embeddings\.position_ids|logit_scale|"
    r"(vision_model|visual_projection|text_projection)\..+"
)

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# A LoRA holds the layer that it wraps in `base`; torch's names have no such level.
_WRAPPERS = ("base",)


def as_dtype(name: str) -> np.dtype:
    """Returns the dtype of that name.

    Raises:
      UserError: networks cannot have that dtype.
    """
    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return jnp.dtype(name)


def fill(abstract: M, tensors: Mapping[str, np.ndarray], dtype: str, where: str) -> M:
    """Puts tensors into an abstract module (from `nnx.eval_shape`), in `dtype`.

    Converts the tensors one at a time, the largest first, so that the copy a device needs is never
    added to a full model: the peak memory of a load stays near the size of the parameters.

    Args:
      where: the file or folder, for the message.

    Raises:
      UserError: tensors are missing, unexpected, of another shape, not floating point or too large
        for the dtype; every such tensor is named.
    """
    target = as_dtype(dtype)
    graphdef, state = nnx.split(abstract)
    slots = {checkpoint_key(path): (path, var) for path, var in nnx.to_flat_state(state)}
    problems = [f"missing: {key}" for key in slots.keys() - tensors.keys()]
    left = tensors.keys() - slots.keys()
    problems += [f"unexpected: {key}" for key in left if not _IGNORED.fullmatch(key)]
    shared = slots.keys() & tensors.keys()
    problems += [_misfit(key, tensors[key], *slots[key]) for key in shared]
    filled = []
    for key in sorted(shared, key=lambda key: (-tensors[key].size, key)):
        if any(problems):  # nothing is converted for a model that cannot be used
            break
        path, var = slots[key]
        try:
            value = _on_device(from_torch_layout(path, tensors[key]), target)
            filled.append((path, var.replace(value)))
        except FloatingPointError:
            problems.append(f"too large for {dtype}: {key}")
    problems = sorted(filter(None, problems))
    if problems:
        head = f"{where} does not fit {type(abstract).__name__}:"
        raise UserError("\n  ".join([head, *problems]))
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def _misfit(key: str, tensor: np.ndarray, path: Path, var: nnx.Variable) -> str:
    """Returns what is wrong with the tensor for that slot; empty if nothing is."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        return f"dtype of {key}: {tensor.dtype}, should be floating point"
    wanted = to_torch_layout(path, np.broadcast_to(np.float32(0), var.shape)).shape
    if tensor.shape != wanted:
        return f"shape of {key}: {tensor.shape} in the file, {wanted} in the model"
    return ""


def _on_device(view: np.ndarray, dtype: np.dtype) -> jax.Array:
    """Returns the tensor, converted, on the default device.

    On a CPU, jax uses a buffer that begins at a multiple of 64 bytes without another copy.
    """
    buffer = np.empty(view.size * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    array = buffer[start : start + view.size * dtype.itemsize].view(dtype).reshape(view.shape)
    _copy(view, array)
    return jax.block_until_ready(jax.device_put(array))


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """Copies with several threads: the system hands out new memory slower than one thread fills it.

    Raises:
      FloatingPointError: a value past float16's range, which would silently become infinite.
    """
    if target.ndim < 2:
        return _copy_part(target, source)
    axis = target.ndim - 2
    parts = (np.array_split(array, _THREADS, axis) for array in (target, source))
    list(_POOL.map(_copy_part, *parts))


def _copy_part(target: np.ndarray, source: np.ndarray) -> None:
    with np.errstate(over="raise"):
        target[...] = source


def rounded(
    tensors: Mapping[str, np.ndarray], dtype: str, where: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
    """Returns the tensors in another dtype.

    Args:
      where: the file or folder to be written, for the message.

    Raises:
      UserError: a tensor is not finite, as in `check_finite`.
    """
    target = as_dtype(dtype)
    with np.errstate(over="ignore"):  # named below
        made = {
            key: np.asarray(tensor).astype(target, copy=False) for key, tensor in tensors.items()
        }
    check_finite(where, made)
    return made


def check_finite(where: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Checks before writing that every number in the tensors is finite.

    Args:
      where: the file or folder to be written, for the message.

    Raises:
      UserError: some are NaN or infinite, as numbers too large for a dtype become; all are named.
    """
    wrong = [f"{key} ({t.dtype})" for key, t in tensors.items() if not np.isfinite(t).all()]
    if wrong:
        what = "numbers that are NaN, infinite or too large for the dtype"
        raise UserError("\n  ".join([f"{where} is not written, for {what} in:", *sorted(wrong)]))


def dtype_name(module: nnx.Module | nnx.State) -> str:
    """Returns the name of the dtype of a module's parameters."""
    return next(iter(state_tensors(module).values())).dtype.name


def state_tensors(module: nnx.Module | nnx.State) -> dict[str, np.ndarray]:
    """Returns a module's parameters with torch's names and layout (views where possible).

    LoRA leaves are left out: a wrapped layer's base weights have the layer's own name.
    """
    state = nnx.state(module) if isinstance(module, nnx.Module) else module
    return {
        checkpoint_key(path): to_torch_layout(path, np.asarray(var[...]))
        for path, var in nnx.to_flat_state(state)
        if isinstance(var, nnx.Param) and not isinstance(var, nnx.LoRAParam)
    }


def checkpoint_key(path: Path) -> str:
    """Returns the name in a diffusers or transformers file of a module's leaf at `path`."""
    *parents, leaf = path
    kept = [str(part) for part in parents if part not in _WRAPPERS]
    return ".".join([*kept, _LEAVES.get(str(leaf), str(leaf))])


def to_torch_layout(path: Path, array: np.ndarray) -> np.ndarray:
    """Returns the leaf at `path` in torch's layout (a view)."""
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def from_torch_layout(path: Path, array: np.ndarray) -> np.ndarray:
    """Returns torch's tensor in the layout of the leaf at `path` (a view)."""
    if path[-1] != "kernel":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
