"""LCM and TCD, for networks that were distilled to jump to x_0 (or near it) from any level.

Luo et al. 2023 (arXiv 2310.04378); Zheng et al. 2024 (arXiv 2402.19159).
"""

import dataclasses
from typing import Annotated, Literal

import numpy as np
import pydantic

from flax_sd.diffusion.schedule import alphas_cumprod
from flax_sd.diffusion.scheduler_config import BetaConfig, Prediction
from flax_sd.errors import UserError
from flax_sd.samplers.clipping import ClipConfig
from flax_sd.samplers.levels import level_of
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.timesteps import check_steps, refuse_no_signal

SIGMA_DATA = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsistencyConfig(BetaConfig):
    """The fields of diffusers' `TCDScheduler`."""

    prediction_type: Prediction = "epsilon"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    rescale_betas_zero_snr: bool = False
    original_inference_steps: Annotated[int, pydantic.Field(ge=1)] = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class LCMConfig(ConsistencyConfig, ClipConfig):
    """The fields of diffusers' `LCMScheduler`."""

    clip_sample: bool = False
    timestep_scaling: float = 10.0


def make_lcm(config: LCMConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `LCMScheduler` is with this config.

    x_s = √ᾱ_s f + √(1 - ᾱ_s) z, where f = c_out x̂_0 + c_skip x (algorithm 3 of the LCM paper).

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    alphas, t = _timesteps(config, num_inference_steps)
    run = Recording(config.prediction_type, config.clip())
    x = run.x
    for k, here in enumerate(t):
        at = run.predict(x, level_of(here, float(alphas[here])))
        scaled = np.float64(here * config.timestep_scaling)
        c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        c_out = scaled / np.sqrt(scaled**2 + SIGMA_DATA**2)
        x = at.x0 * c_out + at.x * c_skip
        if k + 1 < len(t):
            end = np.float64(alphas[t[k + 1]])
            x = x * np.sqrt(end) + run.noise() * np.sqrt(1 - end)
    return run.sampler(x)


def make_tcd(config: ConsistencyConfig, num_inference_steps: int, *, eta: float = 0.3) -> Sampler:
    """Builds the sampler that diffusers' `TCDScheduler` is with this config.

    A jump to the timestep (1 - η) s, and noise back up to s (algorithm 4 of the TCD paper).

    Args:
      eta: γ of the paper, from 0, without noise, to 1.

    Raises:
      UserError: the config, eta or the number of steps is not one that the sampler supports.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}: should be from 0 to 1")
    alphas, t = _timesteps(config, num_inference_steps)
    run = Recording(config.prediction_type)
    x = run.x
    for here, there in zip(t, [*t[1:], 0], strict=True):
        at = run.predict(x, level_of(here, float(alphas[here])))
        jump = np.float64(alphas[int((1 - eta) * there)])
        x = at.x0 * np.sqrt(jump) + at.epsilon * np.sqrt(1 - jump)
        if eta > 0 and here != t[-1]:
            left = np.float64(alphas[there]) / jump
            x = x * np.sqrt(left) + run.noise() * np.sqrt(1 - left)
    return run.sampler(x)


def _timesteps(
    config: ConsistencyConfig, num_inference_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ᾱ, and the timesteps: some of those that the network was distilled at."""
    distilled = config.original_inference_steps
    if distilled > config.num_train_timesteps:
        raise UserError(
            f"original_inference_steps is {distilled}: should be at most num_train_timesteps, "
            f"{config.num_train_timesteps}"
        )
    check_steps(num_inference_steps, at_most=distilled)
    alphas = alphas_cumprod(config, zero_snr=config.rescale_betas_zero_snr)
    stride = config.num_train_timesteps // distilled
    own = np.arange(distilled, 0, -1, dtype=np.int32) * stride - 1
    t = own[np.linspace(0, distilled, num_inference_steps, endpoint=False).astype(int)]
    refuse_no_signal(config, t, alphas)
    return alphas, t
