"""Dropout masks of a LoRA for one pass of training, drawn for each row of the batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from flax_sd.system.program import is_off


class Rates(NamedTuple):
    """Dropout probabilities, as in sd-scripts' `networks/lora.py`.

    Attributes:
      neuron: of each number between down and up; the others are divided by 1 - neuron.
      rank: of each column of the pair, at all positions of an image; the others likewise.
      module: of the whole update of a layer; nothing is divided.
    """

    neuron: ArrayLike = 0.0
    rank: ArrayLike = 0.0
    module: ArrayLike = 0.0


class Drawn(nnx.Variable):
    """A rate, or the random numbers of each row of the batch: a key, or what is kept."""


class Masks(nnx.Module):
    """The dropout of a LoRA while a network that was merged for one pass is called.

    Attributes:
      keys: [b], from which the numbers are drawn whose places are not known before the call.
      columns: [b, r], whether a column is kept.
      whole: [b], whether the update is.
    """

    def __init__(
        self,
        rates: Rates,
        keys: Key[Array, " b"] | None,
        columns: Bool[Array, "b r"] | None,
        whole: Bool[Array, " b"] | None,
    ):
        """Holds the masks of one layer; None where the rate is 0."""
        self.neuron, self.rank = (
            nnx.data(None if is_off(rate) else Drawn(jnp.asarray(rate, jnp.float32)))
            for rate in rates[:2]
        )
        self.keys, self.columns, self.whole = (
            nnx.data(None if each is None else Drawn(each)) for each in (keys, columns, whole)
        )

    def between(self, low: Float[Array, "b *n r"]) -> Float[Array, "b *n r"]:
        """Returns the input of `up`: the output of `down` after dropout."""
        if self.keys is not None and self.neuron is not None:
            rate = self.neuron[...]
            kept = _kept(self.keys[...], rate, low.shape[1:])
            low = jnp.where(kept, low / (1 - rate), 0).astype(low.dtype)
        if self.columns is not None and self.rank is not None:
            kept = _over_places(self.columns[...][:, : low.shape[-1]], low.ndim)
            low = jnp.where(kept, low / (1 - self.rank[...]), 0).astype(low.dtype)
        return low

    def update(self, change: Float[Array, "b *n c"]) -> Float[Array, "b *n c"]:
        """Returns the update of the LoRA, zero in the dropped rows."""
        if self.whole is None:
            return change
        return jnp.where(_over_places(self.whole[...][:, None], change.ndim), change, 0)


def draw_masks(rates: Rates, keys: Key[Array, "l b"], rank: int) -> list[Masks]:
    """Draws the masks of every layer together: a draw for each layer compiles twice as long.

    Args:
      keys: of each layer and row.
      rank: the largest of the layers'; one of a lower rank reads the first columns.
    """
    neurons = _folded(keys, 0) if not is_off(rates.neuron) else None
    columns = _kept(_folded(keys, 1), rates.rank, (rank,)) if not is_off(rates.rank) else None
    whole = _kept(_folded(keys, 2), rates.module, ()) if not is_off(rates.module) else None
    drawn = (neurons, columns, whole)
    return [
        Masks(rates, *(None if each is None else each[i] for each in drawn))
        for i in range(len(keys))
    ]


def _folded(keys: Key[Array, "l b"], number: int) -> Key[Array, "l b"]:
    """Folds a constant for one purpose into the keys."""
    return _each(lambda key: jax.random.fold_in(key, number), keys)


def _kept(keys: Key[Array, "*b"], rate: ArrayLike, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """Draws, for each key, which numbers of an array of that shape are kept."""
    return _each(lambda key: jax.random.bernoulli(key, 1 - rate, shape), keys)


def _each(function: Callable[[jax.Array], jax.Array], keys: jax.Array) -> jax.Array:
    """Maps the function over the keys, axis by axis, so that a batch over devices stays divided."""
    for _ in keys.shape:
        function = jax.vmap(function)
    return function(keys)


def _over_places(kept: Bool[Array, "b r"], ndim: int) -> Bool[Array, "..."]:
    """Reshapes [b, r] to [b, 1, …, 1, r]."""
    return kept.reshape(len(kept), *(1,) * (ndim - 2), -1)
