"""DDPM: ancestral sampling with the posterior of the forward process (Ho et al. 2020)."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from flax_sd.diffusion.schedule import alphas_cumprod
from flax_sd.samplers.clipping import ClipConfig
from flax_sd.samplers.learned_variance import LearnedVariance
from flax_sd.samplers.levels import level_of
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.timesteps import (
    SpacedConfig,
    alpha_at,
    integer_timesteps,
    refuse_no_signal,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPMConfig(SpacedConfig, ClipConfig):
    """The fields of diffusers' `DDPMScheduler`."""

    rescale_betas_zero_snr: bool = False
    variance_type: Literal[
        "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned",
        "learned_range",
    ] = "fixed_small"  # fmt: skip


def make_ddpm(config: DDPMConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `DDPMScheduler` is with this config.

    x_{t-1} ~ N(μ̃_t(x_t, x̂_0), σ_t² I) (eq. 7, with x̂_0 of eq. 15).

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    alphas = alphas_cumprod(config, zero_snr=config.rescale_betas_zero_snr)
    t = integer_timesteps(config, num_inference_steps, alphas)
    refuse_no_signal(config, t, alphas)
    a = alphas[t].astype(np.float64)
    end = np.array([alpha_at(alphas, there, final=1) for there in (*t[1:], -1)])
    x0_weight, x_weight, small, large = posterior(a, end)
    learned = config.variance_type.startswith("learned")
    # diffusers takes the root of log β_t for "fixed_large_log", which is NaN; here it is
    # exp(½ log β_t), as in diffusers for "fixed_small_log".
    std = np.sqrt(small if "small" in config.variance_type else large)
    run = Recording(config.prediction_type, config.clip())
    x = run.x
    for i, here in enumerate(t):
        at = run.predict(x, level_of(here, a[i]))
        x = at.x0 * x0_weight[i] + at.x * x_weight[i]
        if here > 0:
            x += run.noise() * (1 if learned else std[i])
    variance = None
    if learned:
        with np.errstate(divide="ignore"):  # β_t is 0 only where no noise is added
            logs = np.log(small).astype(np.float32), np.log(large).astype(np.float32)
        ranged = config.variance_type == "learned_range"
        variance = LearnedVariance(log_small=logs[0], log_large=logs[1], ranged=ranged)
    return run.sampler(x, variance=variance)


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
    small = np.maximum((1 - a_prev) / (1 - a) * beta, 1e-20)
    return x0_weight, x_weight, small, beta
