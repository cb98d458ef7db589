"""DPM-Solver-2 in σ: k-diffusion's `dpm_2` and `dpm_2_ancestral` (Karras et al. 2022, alg. 2)."""

import dataclasses
import itertools
from typing import Literal

import numpy as np

from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigmas import (
    SpreadSigmaConfig,
    ancestral,
    init_noise_sigma,
    sigma_steps,
    trained_level,
    training_sigmas,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KDPM2Config(SpreadSigmaConfig):
    """The fields of diffusers' `KDPM2DiscreteScheduler` and its ancestral one."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


def make_kdpm2(config: KDPM2Config, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `KDPM2DiscreteScheduler` is with this config.

    A step takes the slope halfway in log σ; the last one, to σ = 0, takes that at its start.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    return _make(config, num_inference_steps, is_ancestral=False)


def make_kdpm2_ancestral(config: KDPM2Config, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `KDPM2AncestralDiscreteScheduler` is with this config.

    A step goes down past the next σ, by the slope halfway there, and adds noise up to it.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    return _make(config, num_inference_steps, is_ancestral=True)


def _make(config: KDPM2Config, num_inference_steps: int, *, is_ancestral: bool) -> Sampler:
    sigmas = training_sigmas(config)
    steps = sigma_steps(config, num_inference_steps, sigmas, rounded_karras=True)
    run = Recording(config.prediction_type)
    x = run.x
    for here, there in itertools.pairwise(steps.levels):
        up, down = ancestral(here.sigma, there.sigma) if is_ancestral else (0, there.sigma)
        start = run.predict(x, here)
        if there.sigma == 0:
            x = start.x - start.epsilon_of_x0 * here.sigma
            continue
        middle = _between(here.sigma, down, sigmas)
        x = start.x + start.epsilon_of_x0 * (middle.sigma - here.sigma)
        x = start.x + run.predict(x, middle).epsilon_of_x0 * (down - here.sigma)
        if is_ancestral:
            x += run.noise() * up
    return run.sampler(x, init_noise_sigma(config, steps), order=2)


def _between(sigma: np.float64, end: np.float64, sigmas: np.ndarray) -> Level:
    """Returns the level halfway between two, in log σ."""
    middle = np.sqrt(sigma * end)
    return trained_level(middle, sigmas)
