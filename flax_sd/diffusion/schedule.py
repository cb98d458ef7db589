"""The forward process: the variances of its noise, and the meaning of a network's output.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), is "the paper" here;
ᾱ_t is its cumulative product, in `alphas_cumprod`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Int

from flax_sd.diffusion.scheduler_config import BetaConfig, TrainingConfig, read_config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """q(x_t | x_0) = N(√ᾱ_t x_0, (1 - ᾱ_t) I) for t = 0 … T-1 (the paper's eq. 4).

    Attributes:
      alphas_cumprod: ᾱ_t, float32 [T], falling from about 1 to about 0.
      prediction_type: what the network's output is: the noise ("epsilon"), the velocity
        ("v_prediction") or x_0 ("sample").
    """

    alphas_cumprod: Any  # not a shaped array: transformations put placeholders into pytrees
    prediction_type: str = dataclasses.field(default="epsilon", metadata={"static": True})

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> "NoiseSchedule":
        """Reads a scheduler_config.json of any class as diffusers' training scripts do.

        They build a `DDPMScheduler` from it, with any `_class_name`.

        Raises:
          UserError: fields have values that are not supported; all are named.
        """
        read = read_config(TrainingConfig, config)
        alphas = alphas_cumprod(read, zero_snr=read.rescale_betas_zero_snr)
        return cls(alphas_cumprod=alphas, prediction_type=read.prediction_type)

    def _scales(self, t: Int[ArrayLike, "*n"], ndim: int) -> tuple[Array, Array]:
        """Returns √ᾱ_t and √(1 - ᾱ_t), shaped to multiply arrays of `ndim` axes."""
        t = jnp.asarray(t)
        a = jnp.asarray(self.alphas_cumprod)[t].reshape(t.shape + (1,) * (ndim - t.ndim))
        return jnp.sqrt(a), jnp.sqrt(1 - a)

    def add_noise(
        self, x0: Float[ArrayLike, "b *d"], noise: Float[ArrayLike, "b *d"], t: Int[ArrayLike, "*n"]
    ) -> Float[Array, "b *d"]:
        """Returns √ᾱ_t x_0 + √(1 - ᾱ_t) ε, a sample of q(x_t | x_0) (eq. 4); t is [b] or []."""
        signal, sigma = self._scales(t, jnp.ndim(x0))
        return signal * x0 + sigma * noise

    def velocity(
        self, x0: Float[ArrayLike, "b *d"], noise: Float[ArrayLike, "b *d"], t: Int[ArrayLike, "*n"]
    ) -> Float[Array, "b *d"]:
        """Returns v = √ᾱ_t ε - √(1 - ᾱ_t) x_0 (Salimans & Ho 2022, appendix D)."""
        signal, sigma = self._scales(t, jnp.ndim(x0))
        return signal * noise - sigma * x0

    def target(
        self, x0: Float[ArrayLike, "b *d"], noise: Float[ArrayLike, "b *d"], t: Int[ArrayLike, "*n"]
    ) -> Float[Array, "b *d"]:
        """Returns the target of the network's output for x_t.

        For "epsilon" the mean squared error to it is L_simple (eq. 14), the variational bound
        (eq. 12) without its weight β_t² / (2 σ_t² α_t (1 - ᾱ_t)).
        """
        if self.prediction_type == "epsilon":
            return jnp.asarray(noise)
        if self.prediction_type == "sample":
            return jnp.asarray(x0)
        return self.velocity(x0, noise, t)

    def snr(self, t: Int[ArrayLike, "*n"]) -> Float[Array, "*n"]:
        """Returns the signal-to-noise ratio ᾱ_t / (1 - ᾱ_t) (Kingma et al. 2021, eq. 2)."""
        a = jnp.asarray(self.alphas_cumprod)[jnp.asarray(t)]
        return a / (1 - a)

    def predict_x0(
        self, x: Float[ArrayLike, "b *d"], out: Float[ArrayLike, "b *d"], t: Int[ArrayLike, "*n"]
    ) -> Float[Array, "b *d"]:
        """Returns x̂_0 from x_t and the network's output; for "epsilon" this is eq. 15."""
        x, out = jnp.asarray(x), jnp.asarray(out)
        return predict_x0(self.prediction_type, x, out, *self._scales(t, x.ndim))

    def predict_epsilon(
        self, x: Float[ArrayLike, "b *d"], out: Float[ArrayLike, "b *d"], t: Int[ArrayLike, "*n"]
    ) -> Float[Array, "b *d"]:
        """Returns the noise ε̂ in x_t according to the network's output (eq. 4 solved for ε)."""
        x, out = jnp.asarray(x), jnp.asarray(out)
        return predict_epsilon(self.prediction_type, x, out, *self._scales(t, x.ndim))


def predict_x0(prediction_type: str, x: Array, out: Array, signal: Array, sigma: Array) -> Array:
    """Returns x̂_0 from x_t = signal · x_0 + sigma · ε; for "epsilon" this is eq. 15."""
    if prediction_type == "epsilon":
        return (x - sigma * out) / signal
    return out if prediction_type == "sample" else signal * x - sigma * out


def predict_epsilon(
    prediction_type: str, x: Array, out: Array, signal: Array, sigma: Array
) -> Array:
    """Returns ε̂ from x_t = signal · x_0 + sigma · ε and the network's output."""
    if prediction_type == "epsilon":
        return out
    return (x - signal * out) / sigma if prediction_type == "sample" else signal * out + sigma * x


def alphas_cumprod(config: BetaConfig, *, zero_snr: bool = False) -> Float32[np.ndarray, " T"]:
    """Returns ᾱ_t = ∏_{s ≤ t} (1 - β_s), rounded as in diffusers' schedulers (`__init__`).

    Args:
      config: names the betas.
      zero_snr: rescales them so that ᾱ_{T-1} = 0 (Lin et al. 2023, algorithm 1).
    """
    betas = _betas(config)
    if zero_snr:
        betas = _rescale_zero_terminal_snr(betas)
    return _cumprod(1 - betas)


def _betas(config: BetaConfig) -> np.ndarray:
    """Returns the variances β_t of the forward process's steps, float32 [T]."""
    steps = config.num_train_timesteps
    if config.trained_betas is not None:
        return np.asarray(config.trained_betas, np.float32)
    if config.beta_schedule == "linear":
        return _linspace(config.beta_start, config.beta_end, steps)
    if config.beta_schedule == "scaled_linear":
        return _linspace(config.beta_start**0.5, config.beta_end**0.5, steps) ** 2
    cosine = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    return np.array(
        [min(1 - cosine[i + 1] / cosine[i], 0.999) for i in range(steps)], dtype=np.float32
    )


def _rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shifts √ᾱ so that it ends at 0 and stretches it so that it begins where it did."""
    root = np.sqrt(_cumprod(1 - betas))
    first, last = root[0], root[-1]
    bar = ((root - last) * (first / (first - last))) ** 2
    return 1 - np.concatenate([bar[:1], bar[1:] / bar[:-1]])


def _linspace(start: float, stop: float, steps: int) -> np.ndarray:
    """Computes torch.linspace in float32: from both ends, with a float32 step and fused products.

    NumPy rounds at other places, and one wrong bit of a beta changes ᾱ by more than the 1e-7 to
    which both tables should agree.
    """
    first, last = np.float32(start), np.float32(stop)
    step = np.float64((last - first) / np.float32(max(steps - 1, 1)))
    i = np.arange(steps)
    rising, falling = first + step * i, last - step * (steps - 1 - i)
    return np.where(i < max(steps // 2, 1), rising, falling).astype(np.float32)


def _cumprod(x: np.ndarray) -> np.ndarray:
    """Computes torch.cumprod of float32, which multiplies in double and rounds each result."""
    return np.cumprod(x, dtype=np.float64).astype(np.float32)
