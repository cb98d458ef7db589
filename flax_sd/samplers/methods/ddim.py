"""DDIM: implicit sampling, deterministic at η = 0 (Song et al. 2021, arXiv 2010.02502)."""

import dataclasses
from typing import Literal

import numpy as np

from flax_sd.diffusion.schedule import alphas_cumprod
from flax_sd.errors import UserError
from flax_sd.samplers.clipping import Clip, ClipConfig
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
class DDIMConfig(SpacedConfig, ClipConfig):
    """The fields of diffusers' `DDIMScheduler`."""

    rescale_betas_zero_snr: bool = False
    set_alpha_to_one: bool = True


def make_ddim(
    config: DDIMConfig,
    num_inference_steps: int,
    *,
    eta: float = 0.0,
    use_clipped_model_output: bool = False,
) -> Sampler:
    """Builds the sampler that diffusers' `DDIMScheduler` is with this config.

    x_s = √ᾱ_s x̂_0 + √(1 - ᾱ_s - std²) ε̂ + std z (eq. 12), where std is eq. 16.

    Args:
      eta: fraction of DDPM's noise to add, from 0 to 1.
      use_clipped_model_output: computes ε̂ from the clipped x̂_0, as GLIDE does.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    alphas = alphas_cumprod(config, zero_snr=config.rescale_betas_zero_snr)
    t = integer_timesteps(config, num_inference_steps, alphas)
    refuse_no_signal(config, t, alphas)
    # diffusers steps by T // n with any spacing, so that with "linspace" and "trailing" a step
    # ends close to the next timestep, but not at it.
    stride = np.int32(config.num_train_timesteps // num_inference_steps)
    final = np.float32(1) if config.set_alpha_to_one else alphas[0]
    run = Recording(config.prediction_type, config.clip())
    x = run.x
    for here in t:
        a, end = np.float64(alphas[here]), alpha_at(alphas, here - stride, final=final)
        at = run.predict(x, level_of(here, a))
        epsilon = at.epsilon_of_x0 if use_clipped_model_output else at.epsilon
        std = eta * np.sqrt((1 - end) / (1 - a) * (1 - a / end))
        left = 1 - end - std**2
        if left < -1e-6:
            raise UserError(
                f"eta is {eta}: it asks for more noise than a step has; 0 to 1 is right"
            )
        # At η = 1 rounding may leave it just below 0.
        x = at.x0 * np.sqrt(end) + epsilon * np.sqrt(max(left, 0))
        if eta > 0:
            x += run.noise() * std
    return run.sampler(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIMInverseConfig(SpacedConfig):
    """The fields of diffusers' `DDIMInverseScheduler`."""

    timestep_spacing: Literal["leading", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True


def make_ddim_inverse(config: DDIMInverseConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `DDIMInverseScheduler` is with this config.

    DDIM's steps the other way, from an image to the noise that DDIM makes it from. The network is
    called with the timestep that a step leads to.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    alphas = alphas_cumprod(config, zero_snr=config.rescale_betas_zero_snr)
    stride = config.num_train_timesteps // num_inference_steps
    first = 1 if config.set_alpha_to_one else alphas[0]
    clip = Clip(largest=config.clip_sample_range) if config.clip_sample else None
    run = Recording(config.prediction_type, clip)
    x = run.x
    for there in integer_timesteps(config, num_inference_steps, alphas)[::-1]:
        here = level_of(there, alpha_at(alphas, there - stride, final=first))
        at = run.predict(x, here)
        end = np.float64(alphas[there])
        x = at.x0 * np.sqrt(end) + at.epsilon * np.sqrt(1 - end)
    return run.sampler(x)
