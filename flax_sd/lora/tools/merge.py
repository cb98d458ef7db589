"""Merges a LoRA into the weights of a network."""

import jax.numpy as jnp
from flax import nnx

from flax_sd.lora.targets import injected


def merge(model: nnx.Module) -> None:
    """Merges every LoRA into the layer's weights: W += scale · down @ up, summed in float32.

    A DoRA gives W' - W for the weights as they were, whatever else is folded in.
    """
    for _, slot, lora in injected(model):
        kernel = lora.base.kernel
        changes = [lora.adapters[name].change(kernel[...]) for name in sorted(lora.adapters)]
        kernel[...] = sum(changes, start=kernel[...].astype(jnp.float32)).astype(kernel.dtype)
        setattr(slot.parent, slot.name, lora.base)
