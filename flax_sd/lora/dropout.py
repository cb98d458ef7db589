"""Dropout in the LoRAs of a network, for one pass."""

import zlib

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from flax_sd.lora.dropout_masks import Rates, draw_masks
from flax_sd.lora.targets import injected


def drop(model: nnx.Module, rates: Rates, keys: Key[Array, " b"]) -> None:
    """Applies dropout to every LoRA of a network that was merged for one pass.

    What a row loses depends on its own key and the layer's path alone, so that parts of a batch
    and devices see what the whole batch does.
    """
    layers = {path: layer for path, _, layer in injected(model)}
    if not layers:
        return
    # crc32 is the same in every process.
    numbers = np.array([zlib.crc32(path.encode()) for path in layers], np.uint32)
    rows = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    own = jax.vmap(rows, in_axes=(None, 0))(keys, numbers)  # [l, b]
    ranks = [
        weights.down[...].shape[-1]
        for layer in layers.values()
        for weights in layer.adapters.values()
    ]
    for layer, masks in zip(layers.values(), draw_masks(rates, own, max(ranks)), strict=True):
        layer.masks = masks
