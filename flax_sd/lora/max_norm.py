"""A bound on how much a LoRA may change any layer."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from flax_sd.lora.layers import LoRAScale


def limit_norms(params: nnx.State, frozen: nnx.State, largest: ArrayLike) -> nnx.State:
    """Scales the leaves of a network's LoRA so that no ‖alpha / rank · up @ down‖ exceeds the
    limit.

    The Frobenius norm; both halves of a pair take the root of what is missing, as in sd-scripts'
    `apply_max_norm_regularization` (networks/lora.py).

    Args:
      params: the trained leaves.
      frozen: the rest, with the scales.
      largest: norm, of the weights' own units.
    """
    flat = dict(nnx.to_flat_state(params))
    for path, scale in nnx.to_flat_state(frozen):
        halves = [(*path[:-1], half) for half in ("down", "up")]
        if isinstance(scale, LoRAScale) and halves[0] in flat:  # or it is not trained
            down, up = (flat[half][...] for half in halves)
            norm = jnp.abs(scale[...]) * product_norm(down, up)
            root = jnp.sqrt(jnp.minimum(1, largest / jnp.maximum(norm, largest / 2)))
            for half in halves:
                flat[half] = flat[half].replace(flat[half][...] * root)
    return nnx.from_flat_state(flat)


def product_norm(down: Float[Array, "*in r"], up: Float[Array, "*one r out"]) -> Float[Array, ""]:
    """Returns ‖down @ up‖ without the product: its square is Σ (downᵀ down) ⊙ (up upᵀ)."""
    down, up = down.reshape(-1, down.shape[-1]), up.reshape(up.shape[-2:])
    highest = jax.lax.Precision.HIGHEST
    inner, outer = (jnp.matmul(m.T, m, precision=highest) for m in (down, up.T))
    return jnp.sqrt(jnp.maximum(jnp.sum(inner * outer), 0))
