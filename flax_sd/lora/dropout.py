"""Dropout in the LoRAs of a network, for one pass."""

import zlib

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from flax_sd.lora.layers import LoRA
from flax_sd.lora.masks import Masks, Rates
from flax_sd.lora.targets import slots


def drop(model: nnx.Module, rates: Rates, keys: Key[Array, " b"]) -> None:
    """Lets every LoRA of a network that was merged for one pass leave out parts of itself.

    What a row loses depends on its own key and the layer's path alone, so that parts of a batch
    and devices see what the whole batch does.
    """
    for path, slot in slots(model).items():
        if isinstance(slot.layer, LoRA):
            number = np.uint32(zlib.crc32(path.encode()))  # the same in every process
            own = jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(keys)
            slot.layer.masks = Masks(rates, own)
