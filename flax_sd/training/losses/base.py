"""The loss that a step minimises, and the batches that it reads.

A loss is a pair of pure functions: `draw` makes all random numbers of a batch from one key, and
`loss` is then deterministic. So a batch that is divided into parts, or over devices, has the same
noise as one that is not.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from flax_sd.models.clip import TextStates
from flax_sd.models.vae import Moments

Trees = Mapping[str, PyTree]  # component name -> its leaves, mostly an nnx.State
Graphs = Mapping[str, nnx.GraphDef]


@runtime_checkable
class Loss(Protocol):
    """The two halves of a training loss, a pytree whose numbers are arguments of a program.

    Attributes:
      timesteps: number of timesteps that `draws.timesteps` [b] is drawn from; None without any.
    """

    @property
    def timesteps(self) -> int | None: ...

    def draw(self, key: jax.Array, batch: Any) -> Any:
        """Returns the random numbers of a batch, a pytree of arrays whose first axis is its."""
        ...

    def loss(self, params: Trees, frozen: Trees, batch: Any, draws: Any) -> Float[Array, " b"]:
        """Returns each image's loss times its weight, float32.

        A step takes the mean, which is right however the batch is divided.
        """
        ...


class PlainLoss(NamedTuple):
    """A loss of two functions, without numbers."""

    draw: Callable[[jax.Array, Any], Any]
    loss: Callable[[Trees, Trees, Any, Any], Float[Array, " b"]]
    timesteps: int | None = None


class EncodedBatch(NamedTuple):
    """Images as moments of their latents; captions as text states, or ids to train on.

    Attributes:
      text: the states that the UNet reads, or the ids of each text encoder.
      time_ids: sizes and crop of each image, which SDXL's UNet is told.
      weight: each image's weight in the loss, with mean 1 over a step; 0 for padding. None: all 1.
      mask: weight of each latent in its image's loss. None: all 1.
    """

    moments: Moments  # [b, h/8, w/8, c] each
    text: TextStates | tuple[jax.Array, ...]  # ids [b, n]; [b, k, n] in chunks
    time_ids: jax.Array | None = None  # [b, 6], for networks that read them
    weight: jax.Array | None = None  # [b]
    mask: jax.Array | None = None  # [b, h/8, w/8]


class PixelBatch(NamedTuple):
    """Images in [-1, 1], [b, h, w, 3], and their weights as in `EncodedBatch`."""

    pixels: jax.Array
    weight: jax.Array | None = None  # [b]


def weighted(value: Float[Array, " b"], batch: EncodedBatch | PixelBatch) -> Float[Array, " b"]:
    """Returns each image's loss times its weight."""
    return value if batch.weight is None else batch.weight * value


def merge(
    graphs: Graphs, params: Trees, frozen: Trees, name: str, dtype: jnp.dtype | None = None
) -> Any:
    """Returns the component as a module; trained leaves are cast to `dtype` unless it is None."""
    trained = params.get(name)
    if trained is None:
        return nnx.merge(graphs[name], frozen[name])
    if dtype is not None:
        trained = jax.tree.map(lambda leaf: leaf.astype(dtype), trained)
    return nnx.merge(graphs[name], trained, frozen[name])
