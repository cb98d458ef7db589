"""Dropout that is a function of each picture's key and of the layer alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32


def dropout(
    x: Float[Array, "b *d"], rate: float, keys: UInt32[Array, "b 2"], layer: int
) -> Float[Array, "b *d"]:
    """x with a share `rate` of its values at zero and the others as much larger.

    Srivastava et al. 2014 (JMLR 15). A row's values depend on its own key, so that a batch in
    parts, or over devices, drops what it drops as a whole.

    Args:
      keys: jax.random.key_data of each row's key.
      layer: the layer's number: each drops others.
    """

    def kept(words: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(words), layer)
        return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1 - rate), 0).astype(x.dtype)
