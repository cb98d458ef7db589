"""The timesteps that a training step draws, and their probabilities."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float32, Float64, Int

from flax_sd.config.loss import TimestepsConfig
from flax_sd.errors import UserError


def probabilities(cfg: TimestepsConfig, count: int) -> Float64[np.ndarray, " T"]:
    """Returns the probability of each of `count` timesteps.

    Raises:
      UserError: the config excludes all.
    """
    chances = np.ones(count)
    if cfg.sampling == "logit_normal":
        chances = _logit_normal(count, cfg.logit_mean, cfg.logit_std)
    elif cfg.sampling != "uniform":
        chances[_biased(cfg, count)] *= cfg.bias_multiplier
    last = count - 1 if cfg.last is None else cfg.last
    if not cfg.first <= last < count:
        raise UserError(
            f"timesteps.first {cfg.first} to timesteps.last {last}: the model has 0 to {count - 1}"
        )
    chances[: cfg.first] = 0
    chances[last + 1 :] = 0
    if not chances.any():
        raise UserError(
            f"timesteps.sampling logit_normal around {cfg.logit_mean} draws none of the timesteps "
            f"from {cfg.first} to {last}"
        )
    return chances / chances.sum()


def reached(chances: Float64[np.ndarray, " T"]) -> Float32[np.ndarray, " T"]:
    """Returns the cumulative distribution, for `draw`."""
    sums = np.cumsum(chances)
    sums[np.flatnonzero(chances)[-1] :] = 2  # so that rounding never exceeds the last one
    return sums.astype(np.float32)


def draw(
    key: jax.Array, reached: Float32[ArrayLike, " T"], batch: int, *, stratified: bool
) -> Int[Array, " b"]:
    """Draws timesteps by inverting the cumulative distribution.

    Args:
      stratified: the i-th of b is drawn from the i-th of b equal parts of the distribution.
    """
    places = jax.random.uniform(key, (batch,))
    if stratified:
        places = (jnp.arange(batch) + places) / batch
    return jnp.searchsorted(jnp.asarray(reached), places, side="right")


def _logit_normal(count: int, mean: float, std: float) -> np.ndarray:
    """Returns the probability that sigmoid(N(mean, std²)) is in each of `count` equal parts."""
    edges = np.arange(1, count) / count
    below = map(statistics.NormalDist(mean, std).cdf, np.log(edges / (1 - edges)))
    return np.diff([0.0, *below, 1.0])


def _biased(cfg: TimestepsConfig, count: int) -> slice:
    """Returns the biased timesteps, as `generate_timestep_weights` of diffusers'
    train_text_to_image_sdxl.py.

    Raises:
      UserError: the range is empty or outside the model's.
    """
    portion = int(cfg.bias_portion * count)
    if cfg.sampling == "earlier":
        return slice(0, portion)
    if cfg.sampling == "later":
        return slice(count - portion, count)
    end = count if cfg.bias_end is None else cfg.bias_end
    if not cfg.bias_begin < end <= count:
        raise UserError(
            f"timesteps.bias_begin {cfg.bias_begin} to timesteps.bias_end {end}: the model has "
            f"0 to {count - 1}, and bias_end is after the last one"
        )
    return slice(cfg.bias_begin, end)
