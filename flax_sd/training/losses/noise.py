"""The noise that a training step adds: white, or with stronger low frequencies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flax_sd.config.loss import NoiseConfig
from flax_sd.system.program import is_off


class Noise(NamedTuple):
    """The options of `NoiseConfig`."""

    offset: ArrayLike
    offset_random: bool
    multires_steps: int
    multires_discount: ArrayLike
    input_perturbation: ArrayLike
    input_perturbation_random: bool

    @classmethod
    def of(cls, cfg: NoiseConfig) -> "Noise":
        """Reads them from a config."""
        return cls(**{name: getattr(cfg, name) for name in cls._fields})


def draw(key: jax.Array, shape: tuple[int, ...], cfg: Noise) -> Float[Array, "b h w c"]:
    """Draws noise for latents of `shape`, [b, h, w, c]; by default it is white.

    The offset is added before the coarse layers, so that it is part of what they normalise, as in
    sd-scripts' `get_noise_noisy_latents_and_timesteps`.
    """
    b, _, _, c = shape
    noise = jax.random.normal(key, shape)
    if not is_off(cfg.offset):
        own, strength = jax.random.fold_in(key, 2), cfg.offset
        if cfg.offset_random:
            strength = _strengths(jax.random.fold_in(key, 4), strength, b)
        noise = noise + strength * jax.random.normal(own, (b, 1, 1, c))
    if cfg.multires_steps:
        own = jax.random.fold_in(key, 1)
        noise = _multires(own, noise, cfg.multires_steps, cfg.multires_discount)
    return noise


def perturb(
    key: jax.Array, noise: Float[Array, "b h w c"], cfg: Noise
) -> Float[Array, "b h w c"] | None:
    """Returns the noise of the input; None if it is the same as the target's."""
    if is_off(cfg.input_perturbation):
        return None
    own, strength = jax.random.fold_in(key, 3), cfg.input_perturbation
    if cfg.input_perturbation_random:
        strength = _strengths(jax.random.fold_in(key, 5), strength, len(noise))
    return noise + strength * jax.random.normal(own, noise.shape)


def _strengths(key: jax.Array, largest: ArrayLike, images: int) -> Float[Array, "b 1 1 1"]:
    """Draws a strength for each image, between 0 and the largest."""
    return jnp.multiply(largest, jax.random.uniform(key, (images, 1, 1, 1)))


def _multires(key: jax.Array, noise: Array, steps: int, discount: ArrayLike) -> Array:
    """Adds layers of r⁻ⁱ the size, r uniform in [2, 4), as sd-scripts' `pyramid_noise_like`.

    The last layer is the first one that is one pixel high or wide; the sum is divided by its
    standard deviation.
    """
    height, width = noise.shape[1:3]
    going = jnp.bool_(True)
    for i in range(steps):
        key, key_scale, key_layer = jax.random.split(key, 3)
        scale = (2 + 2 * jax.random.uniform(key_scale)) ** i
        h, w = (jnp.maximum(1, (side / scale).astype(int)) for side in (height, width))
        layer = jax.random.normal(key_layer, noise.shape)
        layer = _enlarge(_enlarge(layer, h, axis=1), w, axis=2)
        noise = noise + jnp.where(going, discount**i, 0.0) * layer
        going &= (h > 1) & (w > 1)
    return noise / jnp.std(noise, ddof=1)


def _enlarge(x: Array, n: Array, axis: int) -> Array:
    """Interpolates the first n values along an axis to its full length, as torch's bilinear."""
    length = x.shape[axis]
    place = jnp.clip((jnp.arange(length) + 0.5) * n / length - 0.5, 0, n - 1)
    low = place.astype(int)
    high = jnp.minimum(low + 1, n - 1)
    share = (place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return jnp.take(x, low, axis) * (1 - share) + jnp.take(x, high, axis) * share
