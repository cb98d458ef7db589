"""Flow matching, x = (1 - σ) x_0 + σ ε: Euler's and Heun's steps (Esser et al. 2024)."""

import dataclasses
import itertools
import math
from typing import Annotated, SupportsFloat

import numpy as np
import pydantic

from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigma_spacing import SPREADS, Spread
from flax_sd.samplers.solver_steps import NO_DYNAMIC_SHIFT, shifted
from flax_sd.samplers.timesteps import check_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatchConfig:
    """The fields of diffusers' `FlowMatchHeunDiscreteScheduler`."""

    num_train_timesteps: Annotated[int, pydantic.Field(ge=1)] = 1000
    shift: Annotated[float, pydantic.Field(gt=0)] = 1.0

    def sigmas(self, num_inference_steps: int) -> np.ndarray:
        """Returns σ of each step, shifted once more than those of training, as in diffusers.

        Raises:
          UserError: the number of steps is not a whole number from 1.
        """
        check_steps(num_inference_steps, at_most=None)
        total = self.num_train_timesteps
        largest, smallest = shifted(np.array([1, 1 / total]), self.shift)
        return shifted(np.linspace(largest, smallest, num_inference_steps), self.shift)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatchEulerConfig(FlowMatchConfig, Spread):
    """The fields of diffusers' `FlowMatchEulerDiscreteScheduler`."""

    unsupported = NO_DYNAMIC_SHIFT

    shift_terminal: float | None = None
    invert_sigmas: bool = False
    stochastic_sampling: bool = False

    def sigmas(self, num_inference_steps: int) -> np.ndarray:
        """Returns σ of each step.

        Raises:
          UserError: the number of steps is not a whole number from 1, or several fields space σ.
        """
        sigmas = super().sigmas(num_inference_steps)
        if self.shift_terminal:
            sigmas = 1 - (1 - sigmas) * (1 - self.shift_terminal) / (1 - sigmas[-1])
        if self.spread is not None:
            sigmas = SPREADS[self.spread](sigmas[0], sigmas[-1], num_inference_steps)
        return 1 - sigmas if self.invert_sigmas else sigmas


def make_flow_match_euler(config: FlowMatchEulerConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `FlowMatchEulerDiscreteScheduler` is with this config.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    sigmas = config.sigmas(num_inference_steps)
    run = Recording("flow_prediction")
    x = run.x
    for here, there in itertools.pairwise(
        _levels(config, sigmas, 1 if config.invert_sigmas else 0)
    ):
        at = run.predict(x, here)
        x = at.x + at.output * (there.sigma - here.sigma)
        if config.stochastic_sampling:
            x = at.x0 * there.signal + run.noise() * there.sigma
    return run.sampler(x)


def make_flow_match_heun(
    config: FlowMatchConfig,
    num_inference_steps: int,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampler:
    """Builds the sampler that diffusers' `FlowMatchHeunDiscreteScheduler` is with this config.

    Args:
      s_churn: amount of noise to add over all steps; 0 for the deterministic method.
      s_tmin: lowest σ at which noise is added.
      s_tmax: highest σ at which noise is added.
      s_noise: scale of that noise.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    levels = _levels(config, config.sigmas(num_inference_steps), 0)
    calls = 2 * num_inference_steps - 1
    churn = min(s_churn / calls, math.sqrt(2) - 1)
    run = Recording("flow_prediction")
    x = run.x
    for here, there in itertools.pairwise(levels):
        churns = churn > 0 and s_tmin <= here.sigma <= s_tmax
        raised = here.sigma * (churn + 1 if churns else 1)
        start = run.predict(x, here)
        begin, slope = start.x, start.output * (here.sigma / raised)
        if churns:
            begin = run.keep(begin + run.noise() * (s_noise * np.sqrt(raised**2 - here.sigma**2)))
        x = begin + slope * (there.sigma - raised)
        if there is not levels[-1]:
            end = run.predict(x, there)
            if churns:
                run.noise()  # which diffusers draws and does not use
            x = begin + (slope + end.output) * ((there.sigma - raised) / 2)
    return run.sampler(x, order=2)


def _levels(config: FlowMatchConfig, sigmas: np.ndarray, final: SupportsFloat) -> list[Level]:
    """Returns the level of each step, and where the last one ends."""
    return [
        Level(
            np.float32(sigma * np.float32(config.num_train_timesteps)),
            1 - np.float64(sigma),
            np.float64(sigma),
        )
        for sigma in np.append(sigmas, float(final)).astype(np.float32)
    ]
