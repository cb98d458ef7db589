"""The scaling factor of an autoencoder's latents, measured on its training images."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd import data
from flax_sd.system.program import jit
from flax_sd.training.losses import Trees
from flax_sd.training.setup.task import TrainTask

MEASURED_IMAGES = 256  # enough for the third digit
BATCH = 8  # images


def scaling_factor(task: TrainTask, params: Trees, frozen: Trees, images: data.Images) -> float:
    """Returns 1 / the standard deviation of sampled latents (Rombach et al. 2022, §G)."""

    def sums(params: Trees, frozen: Trees, pixels: jax.Array) -> tuple[jax.Array, ...]:
        vae = nnx.merge(task.graphs["vae"], params["vae"], frozen["vae"])
        moments = vae.encode(pixels)
        # The variance of a sample is the mean's plus the posterior's.
        second = jnp.square(moments.mean) + jnp.exp(moments.logvar)
        return jnp.mean(moments.mean), jnp.mean(second)

    measure = jit(sums)
    values = []
    for rows in _chunks(images):
        pixels = np.stack([images.load(i, seed=0, sample=i) for i in rows])
        values.append([float(value) for value in measure(params, frozen, jnp.asarray(pixels))])
    mean, second = np.mean(values, axis=0)
    return float(1 / np.sqrt(second - mean**2))


def _chunks(images: data.Images) -> Iterator[list[int]]:
    """Yields full batches of one shape; at least one a shape, with repeated images if needed."""
    for same in data.group_indices(images.shapes):
        share = MEASURED_IMAGES * len(same) // len(images)
        count = max(BATCH, min(share, len(same)) // BATCH * BATCH)
        for start in range(0, count, BATCH):
            yield [same[i % len(same)] for i in range(start, start + BATCH)]
