"""The scale of an autoencoder's latents, measured on the pictures it was trained on."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd import data
from flax_sd.compiler import jit
from flax_sd.losses import Trees
from flax_sd.runs.objective import Objective

PICTURES, AT_ONCE = 256, 8  # as many as settle the third digit


def scaling_factor(
    objective: Objective, params: Trees, frozen: Trees, pictures: data.Pictures
) -> float:
    """1 / the standard deviation of sampled latents (Rombach et al. 2022, §G)."""

    def sums(params: Trees, frozen: Trees, pixels: jax.Array) -> tuple[jax.Array, ...]:
        vae = nnx.merge(objective.graphs["vae"], params["vae"], frozen["vae"])
        moments = vae.encode(pixels)
        # The variance of a sample is the mean's plus the posterior's.
        second = jnp.square(moments.mean) + jnp.exp(moments.logvar)
        return jnp.mean(moments.mean), jnp.mean(second)

    measure = jit(sums)
    count = max(AT_ONCE, min(PICTURES, len(pictures)) // AT_ONCE * AT_ONCE)
    values = []
    for start in range(0, count, AT_ONCE):
        rows = [i % len(pictures) for i in range(start, start + AT_ONCE)]
        pixels = np.stack([pictures.load(i, seed=0, sample=i) for i in rows])
        values.append([float(value) for value in measure(params, frozen, pixels)])
    mean, second = np.mean(values, axis=0)
    return float(1 / np.sqrt(second - mean**2))
