"""EDM's own preconditioning and levels, with Euler's and DPM-Solver++'s steps (Playground).

Karras et al. 2022 (arXiv 2206.00364), table 1.
"""

import dataclasses
import itertools
import math
from typing import Annotated, Literal

import numpy as np
import pydantic

from flax_sd.samplers.clipping import Clip
from flax_sd.samplers.dpm_update import DPMOrders, multistep
from flax_sd.samplers.levels import Level, predicted_x0
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigma_spacing import exponential, karras
from flax_sd.samplers.timesteps import check_steps

Positive = Annotated[float, pydantic.Field(gt=0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMConfig:
    """The fields of diffusers' `EDMEulerScheduler`."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    sigma_data: Positive = 0.5
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    rho: Positive = 7.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def kind(self) -> str:
        """The prediction type, as `levels` names it."""
        return f"edm_{self.prediction_type}"

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first x."""
        return math.sqrt(self.sigma_max**2 + 1)

    def levels(self, num_inference_steps: int) -> list[Level]:
        """Returns the level of each step, and where the last one ends.

        Raises:
          UserError: the number of steps is not a whole number from 1.
        """
        check_steps(num_inference_steps, at_most=None)
        ends = self.sigma_max, self.sigma_min, num_inference_steps
        rule = self.sigma_schedule
        sigmas = karras(*ends, rho=self.rho) if rule == "karras" else exponential(*ends)
        final = self.sigma_min if self.final_sigmas_type == "sigma_min" else 0
        return [self.level(sigma) for sigma in np.append(sigmas, final).astype(np.float32)]

    def level(self, sigma: np.floating) -> Level:
        """Returns the level of a σ, whose timestep is ¼ log σ."""
        sigma = np.float64(sigma)
        scale = 1 / np.sqrt(sigma**2 + self.sigma_data**2)
        return Level(np.log(sigma) / 4, np.float64(1), sigma, scale, self.sigma_data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMMultistepConfig(EDMConfig, DPMOrders):
    """The further fields of diffusers' `EDMDPMSolverMultistepScheduler`."""

    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0


def make_edm_euler(
    config: EDMConfig,
    num_inference_steps: int,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampler:
    """Builds the sampler that diffusers' `EDMEulerScheduler` is with this config.

    Args:
      s_churn: amount of noise to add over all steps; 0 for the deterministic method.
      s_tmin: lowest σ at which noise is added.
      s_tmax: highest σ at which noise is added.
      s_noise: scale of that noise.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    churn = min(s_churn / num_inference_steps, math.sqrt(2) - 1)
    run = Recording(config.kind)
    x = run.x
    for here, there in itertools.pairwise(config.levels(num_inference_steps)):
        at = run.predict(x, here)
        x, level = at.x, here
        if churn > 0 and s_tmin <= here.sigma <= s_tmax:
            level = config.level(here.sigma * (churn + 1))
            x += run.noise() * (s_noise * np.sqrt(level.sigma**2 - here.sigma**2))
        x0 = predicted_x0(run.kind, level, x, at.output)
        x += (x - x0) / level.sigma * (there.sigma - level.sigma)
    return run.sampler(x, config.init_noise_sigma)


def make_edm_dpm_multistep(config: EDMMultistepConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `EDMDPMSolverMultistepScheduler` is with this config.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    algorithm = "dpmsolver++" if config.algorithm_type == "deis" else config.algorithm_type
    clip = None
    if config.thresholding:
        clip = Clip(quantile=config.dynamic_thresholding_ratio, largest=config.sample_max_value)
    run = Recording(config.kind, clip)
    levels = config.levels(num_inference_steps)
    orders = config.orders(len(levels) - 1)
    x = multistep(run, levels, orders, algorithm, config.solver_type)
    return run.sampler(x, config.init_noise_sigma)
