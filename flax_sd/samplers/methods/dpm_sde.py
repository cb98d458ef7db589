"""DPM-Solver++ SDE in σ, as in k-diffusion: two calls a step, each with noise (Lu et al. 2022b)."""

import dataclasses
import itertools
from types import MappingProxyType
from typing import Literal

import numpy as np

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
class DPMSDEConfig(SpreadSigmaConfig):
    """The fields of diffusers' `DPMSolverSDEScheduler`, but for the seed of its own noise."""

    unsupported = MappingProxyType({"noise_sampler_seed": None})

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


def make_dpm_sde(
    config: DPMSDEConfig, num_inference_steps: int, *, s_noise: float = 1.0
) -> Sampler:
    """Builds the sampler that diffusers' `DPMSolverSDEScheduler` is with this config.

    Its noise is that of one Brownian path over σ: the increments to the middle of a step and from
    there are drawn from the image's generator, and together they are that of the step. diffusers'
    path has the same distribution, and a seed of its own.

    Args:
      s_noise: scale of the noise.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    sigmas = training_sigmas(config)
    steps = sigma_steps(config, num_inference_steps, sigmas)
    run = Recording(config.prediction_type)
    x = run.x
    for here, there in itertools.pairwise(steps.levels):
        start = run.predict(x, here)
        if there.sigma == 0:
            x = start.x - start.epsilon_of_x0 * here.sigma
            continue
        sigma = np.sqrt(here.sigma * there.sigma)
        middle = trained_level(sigma, sigmas)
        first = run.keep(run.noise() * np.sqrt(here.sigma - middle.sigma))
        up, down = ancestral(here.sigma, middle.sigma)
        x = start.x * (down / here.sigma) + start.x0 * (1 - down / here.sigma)
        x += first * (s_noise * up / np.sqrt(here.sigma - middle.sigma))
        at = run.predict(x, middle)
        whole = first + run.noise() * np.sqrt(middle.sigma - there.sigma)
        up, down = ancestral(here.sigma, there.sigma)
        x = start.x * (down / here.sigma) + at.x0 * (1 - down / here.sigma)
        x += whole * (s_noise * up / np.sqrt(here.sigma - there.sigma))
    return run.sampler(x, init_noise_sigma(config, steps), order=2)
