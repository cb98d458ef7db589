"""Approximates the effect of a LoRA on a network by a plain LoRA of a given rank."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd.lora.adapter import Adapter
from flax_sd.lora.inject import to_torch
from flax_sd.lora.layers import LoRA
from flax_sd.lora.targets import injected


def bake(model: nnx.Module, rank: int) -> tuple[dict[str, Adapter], float]:
    """Returns, by path, the first singular vectors of each W' - W (Eckart & Young 1936).

    It is for DoRAs, which many programs do not read; a plain LoRA becomes one of another rank.

    Returns:
      The adapters, and ‖what they miss‖ / ‖W' - W‖ over all layers, from 0 to 1.
    """
    adapters, missed, whole = {}, 0.0, 0.0
    for path, _, layer in injected(model):
        change = _change(layer)
        matrix = change.reshape(-1, change.shape[-1])
        left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
        roots = np.sqrt(sizes[:rank])
        down = (left[:, :rank] * roots).reshape(*change.shape[:-1], -1)
        up = (roots[:, None] * right[:rank]).reshape(*(1,) * (change.ndim - 2), -1, len(right.T))
        adapters[path] = Adapter(to_torch(down), to_torch(up), len(roots))
        missed += float(np.sum(np.square(sizes[rank:])))
        whole += float(np.sum(np.square(sizes)))
    return adapters, math.sqrt(missed / whole) if whole else 0.0


def _change(layer: LoRA) -> np.ndarray:
    """Returns what all adapters add to a layer's kernel."""
    kernel = jnp.asarray(layer.kernel[...], jnp.float32)
    changes = [layer.adapters[name].change(kernel) for name in sorted(layer.adapters)]
    return np.asarray(sum(changes, start=jnp.zeros_like(kernel)))
