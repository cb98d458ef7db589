"""DDPM: ancestral sampling with the posterior of the forward process (Ho et al. 2020)."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from flax_sd.diffusion.schedule import alphas_cumprod, predict_x0
from flax_sd.diffusion.scheduler_config import read_config
from flax_sd.errors import UserError
from flax_sd.samplers.clipping import Clip, ClipConfig
from flax_sd.samplers.sampler import Carry, Grid, Sampler, Table, row
from flax_sd.samplers.timesteps import integer_timesteps, previous, refuse_no_signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPMConfig(ClipConfig):
    """The fields of diffusers' `DDPMScheduler`."""

    variance_type: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned",
        "learned_range",
    ] = "fixed_small"  # fmt: skip


class DDPMTables(NamedTuple):
    """Coefficients of each step, float32 [m]."""

    signal: Table  # √ᾱ_t
    sigma: Table  # √(1 - ᾱ_t)
    x0_weight: Table  # of x̂_0 in the posterior's mean
    x_weight: Table  # of x_t in the posterior's mean
    std: Table  # of the noise where it is fixed
    log_small: Table  # log β̃_t, where "learned_range" begins
    log_large: Table  # log β_t, where it ends
    noisy: Table  # 1 where noise is added, else 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """x_{t-1} ~ N(μ̃_t(x_t, x̂_0), σ_t² I) (eq. 7, with x̂_0 of eq. 15)."""

    tables: DDPMTables
    prediction_type: str = dataclasses.field(metadata={"static": True})
    variance_type: str = dataclasses.field(metadata={"static": True})
    clip: Clip = dataclasses.field(metadata={"static": True})

    def step(
        self,
        carry: Carry,
        model_output: Float[ArrayLike, "b h w c_out"],
        i: Int[ArrayLike, ""],
        noise: Float[ArrayLike, "b h w c"] | None = None,
    ) -> Carry:
        """Takes one step of algorithm 2; with a learned variance the output has 2c channels."""
        out, variance = self._split(jnp.asarray(model_output, jnp.float32), carry.x)
        at = row(self.tables, i)
        x0 = predict_x0(self.prediction_type, carry.x, out, at.signal, at.sigma)
        x = at.x0_weight * self.clip(x0) + at.x_weight * carry.x
        return Carry(x + self._std(variance, at) * self._drawn(noise) if self.stochastic else x)

    def _split(self, out: Array, x: Array) -> tuple[Array, Array]:
        """Splits the output into the prediction and the learned variance."""
        parts = 2 if self.variance_type.startswith("learned") else 1
        if out.shape[-1] != parts * x.shape[-1]:
            raise UserError(
                f"variance_type {self.variance_type} needs a network with "
                f"{parts * x.shape[-1]} output channels, this one has {out.shape[-1]}"
            )
        return out[..., : x.shape[-1]], out[..., (parts - 1) * x.shape[-1] :]

    def _std(self, variance: Array, at: DDPMTables) -> Array:
        """Returns σ_t; "learned_range" interpolates log σ_t² (Nichol & Dhariwal 2021, eq. 15)."""
        if self.variance_type == "learned":
            return at.noisy * jnp.sqrt(variance)
        if self.variance_type == "learned_range":
            fraction = (variance + 1) / 2
            log = fraction * at.log_large + (1 - fraction) * at.log_small
            return at.noisy * jnp.exp(0.5 * log)
        return at.std


def make_ddpm(raw: Mapping[str, object], num_inference_steps: int) -> DDPM:
    """Builds the sampler that diffusers' `DDPMScheduler` is with this config.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    config = read_config(DDPMConfig, raw)
    alphas = alphas_cumprod(config, zero_snr=config.rescale_betas_zero_snr)
    t = integer_timesteps(config, num_inference_steps, alphas)
    refuse_no_signal(config, t, alphas)
    a, a_prev = alphas[t], previous(alphas, np.append(t[1:], -1), final=np.float32(1))
    x0_weight, x_weight, small, large = posterior(a, a_prev)
    noisy = t > 0
    with np.errstate(divide="ignore"):  # β_t is 0 only where no noise is added
        log_small, log_large = np.log(small), np.log(large)
    # diffusers takes the root of log β_t for "fixed_large_log", which is NaN; here it is
    # exp(½ log β_t), as in diffusers for "fixed_small_log".
    std = np.sqrt(small if "small" in config.variance_type else large)
    tables = DDPMTables(
        np.sqrt(a), np.sqrt(1 - a), x0_weight, x_weight, noisy * std, log_small, log_large,
        noisy.astype(np.float32),
    )  # fmt: skip
    return DDPM(
        grid=Grid(t, noisy, np.float32(1)),
        stochastic=bool(noisy.any()),
        tables=tables,
        prediction_type=config.prediction_type,
        variance_type=config.variance_type,
        clip=config.clip(),
    )


def posterior(
    a: Float[np.ndarray, " m"], a_prev: Float[np.ndarray, " m"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Computes q(x_s | x_t, x_0) = N(μ̃, β̃ I) for a step from ᾱ_t down to ᾱ_s (eq. 6 and 7).

    Returns:
      The weights of x_0 and of x_t in μ̃, then β̃_t (at least 1e-20) and β_t = 1 - ᾱ_t / ᾱ_s.
    """
    alpha = a / a_prev
    beta = 1 - alpha
    x0_weight = np.sqrt(a_prev) * beta / (1 - a)
    x_weight = np.sqrt(alpha) * (1 - a_prev) / (1 - a)
    small = np.maximum((1 - a_prev) / (1 - a) * beta, np.float32(1e-20))
    return x0_weight, x_weight, small, beta
