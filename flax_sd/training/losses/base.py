"""What a step minimises, and what it is computed from.

A loss is a pair of pure functions: `draw` makes everything random for a batch from one key, and
`loss` is then deterministic, so that a batch divided into parts, or over devices, sees the same
noise as one that is not.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flax_sd.models.vae import Moments

Trees = Mapping[str, Any]  # component name -> a pytree of its leaves, mostly an nnx.State
Graphs = Mapping[str, nnx.GraphDef]


class Loss(NamedTuple):
    """The two halves of a training objective.

    draw(key, batch) -> a pytree whose arrays all begin with the batch axis.
    loss(params, frozen, batch, draws) -> float32 [b], each picture's own times its weight; a step
      takes the mean, which is right however the batch is divided.
    timesteps: how many there are, of which `draws.timesteps` holds a picture's; None without any.
    """

    draw: Callable[[jax.Array, Any], Any]
    loss: Callable[[Trees, Trees, Any, Any], Float[Array, " b"]]
    timesteps: int | None = None


class EncodedBatch(NamedTuple):
    """Pictures as moments of their latents, captions as text states or, if trained on, ids.

    Attributes:
      weight: of each picture in the loss, of mean 1 over a step; 0 only fills the batch up. None
        where all weigh 1.
      mask: weight of each place of the latents in its picture's loss; None where all weigh 1.
    """

    moments: Moments  # [b, h/8, w/8, c] each
    text: jax.Array  # [b, n, d] states, or int ids [b, n], [b, k, n] in chunks
    weight: jax.Array | None = None  # [b]
    mask: jax.Array | None = None  # [b, h/8, w/8]


class PixelBatch(NamedTuple):
    """Pictures in [-1, 1], [b, h, w, 3], and their weights as in `EncodedBatch`."""

    pixels: jax.Array
    weight: jax.Array | None = None  # [b]


def weighted(value: Float[Array, " b"], batch: EncodedBatch | PixelBatch) -> Float[Array, " b"]:
    """Each picture's loss times its weight."""
    return value if batch.weight is None else batch.weight * value


def merge(
    graphs: Graphs, params: Trees, frozen: Trees, name: str, dtype: jnp.dtype | None = None
) -> Any:
    """The component as a module; its trained leaves cast to `dtype` unless that is None."""
    trained = params.get(name)
    if trained is None:
        return nnx.merge(graphs[name], frozen[name])
    if dtype is not None:
        trained = jax.tree.map(lambda leaf: leaf.astype(dtype), trained)
    return nnx.merge(graphs[name], trained, frozen[name])
