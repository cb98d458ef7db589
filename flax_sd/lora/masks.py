"""What a LoRA leaves out at random in one pass of training, drawn for each row of the batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key


class Rates(NamedTuple):
    """Chances of being left out, as sd-scripts' `networks/lora.py` has them.

    Attributes:
      neuron: of each number between down and up; the others are divided by 1 - neuron.
      rank: of each column of the pair, at all positions of a picture; the others likewise.
      module: of the whole update of a layer; nothing is divided.
    """

    neuron: float = 0.0
    rank: float = 0.0
    module: float = 0.0


class RowKeys(nnx.Variable):
    """A random key for each row of the batch, of a layer's own."""


class Masks(nnx.Module):
    """Stands in a LoRA while a network that was merged for one pass is called."""

    def __init__(self, rates: Rates, keys: Key[Array, " b"]):
        self.neuron, self.rank, self.module = rates
        self.keys = RowKeys(keys)

    def between(self, low: Float[Array, "b *n r"]) -> Float[Array, "b *n r"]:
        """What goes from down to up, without what is left out of it."""
        if self.neuron:
            low = jnp.where(self._kept(0, self.neuron, low.shape[1:]), low / (1 - self.neuron), 0)
        if self.rank:
            kept = self._kept(1, self.rank, (*(1,) * (low.ndim - 2), low.shape[-1]))
            low = jnp.where(kept, low / (1 - self.rank), 0)
        return low

    def update(self, change: Float[Array, "b *n c"]) -> Float[Array, "b *n c"]:
        """What the LoRA adds, in the rows that are not left out."""
        if not self.module:
            return change
        return jnp.where(self._kept(2, self.module, (1,) * (change.ndim - 1)), change, 0)

    def _kept(self, number: int, rate: float, shape: tuple[int, ...]) -> Bool[Array, "b *n"]:
        def row(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, shape)

        return jax.vmap(row)(self.keys[...])
