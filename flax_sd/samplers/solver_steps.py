"""The steps of the solvers in λ = log(signal / sigma): DPM-Solver, UniPC, DEIS and SA-Solver.

Lu et al. 2022 (arXiv 2206.00927). x is √ᾱ x_0 + √(1 - ᾱ) ε; σ, which is √((1 - ᾱ) / ᾱ), only names
a level.
"""

import dataclasses
from types import MappingProxyType
from typing import Annotated, Literal, SupportsFloat

import numpy as np
import pydantic
from jaxtyping import Float32

from flax_sd.diffusion.scheduler_config import BetaConfig
from flax_sd.errors import UserError
from flax_sd.samplers.clipping import Clip
from flax_sd.samplers.levels import Level
from flax_sd.samplers.sigma_spacing import OWN_ENDS, SPREADS, Ends, Spread, sigma_to_t
from flax_sd.samplers.timesteps import check_steps

# The only supported value of a shift that pipelines of other families compute from an image's size.
NO_DYNAMIC_SHIFT = MappingProxyType({"use_dynamic_shifting": False})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverSpacing:
    """The fields that choose the timesteps."""

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "linspace"
    steps_offset: Annotated[int, pydantic.Field(ge=0)] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverConfig(BetaConfig, Spread):
    """The fields that all of these classes read; each adds its own."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    use_flow_sigmas: bool = False
    flow_shift: Annotated[float, pydantic.Field(gt=0)] = 1.0

    def clip(self) -> Clip | None:
        """Returns the dynamic thresholding, if there is any."""
        if not self.thresholding:
            return None
        return Clip(quantile=self.dynamic_thresholding_ratio, largest=self.sample_max_value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMConfig(SolverConfig):
    """The further fields of both DPM-Solver classes."""

    solver_order: Literal[1, 2, 3] = 2
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float | None = None
    variance_type: str | None = None

    def check(self, algorithm: str) -> None:
        """Refuses what the classes cannot do.

        Raises:
          UserError: fields do not go together; all are named.
        """
        problems = []
        if self.final_sigmas_type == "zero" and not algorithm.endswith("++"):
            problems.append(
                f'algorithm_type "{algorithm}" cannot end without noise: final_sigmas_type should '
                'be "sigma_min"'
            )
        if algorithm == "sde-dpmsolver" and self.solver_order == 3:
            problems.append(
                f'algorithm_type "{algorithm}" has no solver_order 3: 1 and 2 are right'
            )
        if str(self.variance_type).startswith("learned"):
            problems.append(
                f"variance_type is {self.variance_type}: a learned one is not supported"
            )
        if problems:
            raise UserError("; ".join(problems))


def training_steps(sigmas: Float32[np.ndarray, " T"], lambda_min: float | None) -> int:
    """Returns how many training timesteps have a λ = -log σ of at least lambda_min."""
    return len(sigmas) if lambda_min is None else int((-np.log(sigmas) >= lambda_min).sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visited:
    """The levels that a solver visits, before the one where its last step ends."""

    timesteps: np.ndarray  # may be fractions
    sigmas: np.ndarray
    is_flow: bool  # x is (1 - σ) x_0 + σ ε

    def lowest(self, config: SolverConfig, sigmas: Float32[np.ndarray, " T"]) -> np.floating:
        """Returns the lowest σ: of training, or the last visited one if σ itself is spaced."""
        own = config.spread is not None or config.use_flow_sigmas
        return self.sigmas[-1] if own else sigmas[0]

    def levels(self, final: SupportsFloat) -> list[Level]:
        """Returns the level of each step, and the one of σ = final, where the last ends."""
        sigmas = np.append(self.sigmas, float(final)).astype(np.float32)
        t = [*self.timesteps.astype(np.int32), np.int32(0)]
        level = _flow_level if self.is_flow else _variance_preserving_level
        return [level(*pair) for pair in zip(t, sigmas, strict=True)]


def _variance_preserving_level(t: np.int32, sigma: np.float32) -> Level:
    signal = 1 / np.sqrt(np.float64(sigma) ** 2 + 1)
    return Level(t, signal, np.float64(sigma) * signal)


def _flow_level(t: np.int32, sigma: np.float32) -> Level:
    return Level(t, 1 - np.float64(sigma), np.float64(sigma))


def visited(
    config: SolverConfig,
    num_inference_steps: int,
    sigmas: Float32[np.ndarray, " T"],
    *,
    last: int | None = None,
    ends: Ends = OWN_ENDS,
    rule: str | None = None,
    rounded: bool | None = None,
) -> Visited:
    """Returns what a solver visits.

    Args:
      config: the class's fields.
      num_inference_steps: number of steps.
      sigmas: of the training timesteps, rising.
      last: number of training timesteps from which to choose; None for all.
      ends: where a rule that spaces σ begins and ends; by default at those of training.
      rule: a key of `SPREADS`; None for the config's.
      rounded: whether the rule's timesteps are rounded and not cut; None if it is karras.

    Raises:
      UserError: the number of steps is not one that the spacing can make, or several fields space
        σ.
    """
    n, total = num_inference_steps, config.num_train_timesteps
    check_steps(n, at_most=None)
    rule = rule or config.spread
    if rule is not None:
        own = SPREADS[rule](*ends.or_else(sigmas[-1], sigmas[0]), n)
        t = sigma_to_t(own, np.log(sigmas))
        t = t.round() if (rule == "karras" if rounded is None else rounded) else t
        return Visited(timesteps=t, sigmas=own, is_flow=False)
    if config.use_flow_sigmas:
        own = 1 - np.linspace(1, 1 / total, n + 1)
        own = shifted(own, config.flow_shift)[::-1][:-1]
        return Visited(timesteps=own * total, sigmas=own, is_flow=True)
    t = solver_timesteps(config, n, last or total)
    return Visited(timesteps=t, sigmas=np.interp(t, np.arange(len(sigmas)), sigmas), is_flow=False)


def shifted(sigmas: np.ndarray, shift: float) -> np.ndarray:
    """Returns σ of flow matching moved towards noise (Esser et al. 2024, §5.3.2)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def solver_timesteps(config: SolverConfig, n: int, last: int) -> np.ndarray:
    """Returns whole timesteps, from noisy to clean; the last step ends one stride below them.

    Raises:
      UserError: more steps than "leading" can make.
    """
    if not isinstance(config, SolverSpacing) or config.timestep_spacing == "linspace":
        return np.linspace(0, last - 1, n + 1).round()[::-1][:-1]
    if config.timestep_spacing == "trailing":
        return np.arange(last, 0, -config.num_train_timesteps / n).round() - 1
    if n >= last:
        raise UserError(
            f"num_inference_steps is {n}: should be a whole number from 1 to {last - 1}"
        )
    return (np.arange(n + 1) * (last // (n + 1)))[::-1][:-1] + config.steps_offset
