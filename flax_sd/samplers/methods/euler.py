"""Euler's method on the probability-flow ODE, with churn or ancestral noise (Karras et al. 2022).

The ancestral steps are those of k-diffusion's `euler_ancestral`.
"""

import dataclasses
import itertools
import math
from typing import Literal

import numpy as np

from flax_sd.samplers.levels import predicted_x0
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigma_spacing import Ends, Spread
from flax_sd.samplers.sigmas import (
    SigmaConfig,
    SigmaSteps,
    ancestral,
    init_noise_sigma,
    sigma_steps,
    training_sigmas,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerConfig(SigmaConfig, Spread):
    """The fields of diffusers' `EulerDiscreteScheduler`."""

    rescale_betas_zero_snr: bool = False
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    sigma_min: float | None = None
    sigma_max: float | None = None


def make_euler(
    config: EulerConfig,
    num_inference_steps: int,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampler:
    """Builds the sampler that diffusers' `EulerDiscreteScheduler` is with this config.

    x ← x + (x - x̂_0) / σ̂ · (σ_next - σ̂), where σ̂ is σ raised by churn (alg. 2).

    Args:
      s_churn: amount of noise to add over all steps; 0 for the deterministic method.
      s_tmin: lowest σ at which noise is added.
      s_tmax: highest σ at which noise is added.
      s_noise: scale of that noise.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    steps = _steps(config, num_inference_steps)
    churn = min(s_churn / num_inference_steps, math.sqrt(2) - 1)
    run = Recording(config.prediction_type)
    x = run.x
    for here, there in itertools.pairwise(steps.levels):
        at = run.predict(x, here)
        x, level, sigma = at.x, here, here.sigma
        if churn > 0 and s_tmin <= here.sigma <= s_tmax:
            sigma = here.sigma * (churn + 1)
            x += run.noise() * (s_noise * np.sqrt(sigma**2 - here.sigma**2))
            if run.kind == "epsilon":
                level = here._replace(sigma=sigma)
        x0 = predicted_x0(run.kind, level, x, at.output)
        x += (x - x0) / sigma * (there.sigma - sigma)
    return run.sampler(x, init_noise_sigma(config, steps))


def _steps(config: EulerConfig, n: int) -> SigmaSteps:
    """Returns the steps, by the fields that only this class of the family reads."""
    sigmas = training_sigmas(config, zero_snr=config.rescale_betas_zero_snr)
    steps = sigma_steps(
        config,
        n,
        sigmas,
        log_linear=config.interpolation_type == "log_linear",
        ends=Ends(config.sigma_max, config.sigma_min),
        final=sigmas[0] if config.final_sigmas_type == "sigma_min" else 0,
    )
    if config.timestep_type == "continuous" and config.prediction_type == "v_prediction":
        return steps._replace(timesteps=np.log(steps.sigmas[:-1]) / 4)
    return steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerAncestralConfig(SigmaConfig):
    """The fields of diffusers' `EulerAncestralDiscreteScheduler`."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = False


def make_euler_ancestral(config: EulerAncestralConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `EulerAncestralDiscreteScheduler` is with this config.

    x ← x + (x - x̂_0) / σ · (σ_down - σ) + σ_up z, where σ_down² + σ_up² = σ_next².

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    sigmas = training_sigmas(config, zero_snr=config.rescale_betas_zero_snr)
    steps = sigma_steps(config, num_inference_steps, sigmas)
    run = Recording(config.prediction_type)
    x = run.x
    for here, there in itertools.pairwise(steps.levels):
        at = run.predict(x, here)
        up, down = ancestral(here.sigma, there.sigma)
        # The last step draws too, where the scale of its noise is 0.
        x = at.x + at.epsilon_of_x0 * (down - here.sigma) + run.noise() * up
    return run.sampler(x, init_noise_sigma(config, steps))
