"""The σ parametrisation of Euler's family: x = x_0 + σ ε, so that σ² = (1 - ᾱ) / ᾱ.

Karras et al. 2022 (arXiv 2206.00364) write diffusion sampling as an ODE in σ; the network, trained
on √ᾱ x, is called with x / √(σ² + 1).
"""

import dataclasses
from typing import Literal, NamedTuple, SupportsFloat

import numpy as np
from jaxtyping import Float32

from flax_sd.diffusion.schedule import alphas_cumprod
from flax_sd.diffusion.scheduler_config import BetaConfig
from flax_sd.samplers.levels import Level
from flax_sd.samplers.sigma_spacing import OWN_ENDS, SPREADS, Ends, Spread, sigma_to_t
from flax_sd.samplers.timesteps import SpacedConfig, float_timesteps

TERMINAL_ALPHA = 2**-24  # as in diffusers, where betas are rescaled: keeps the first σ finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaConfig(SpacedConfig):
    """The fields that all classes of the family read; each adds its own."""

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "linspace"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpreadSigmaConfig(SigmaConfig, Spread):
    """The fields of the classes that can space σ itself, and their betas."""

    beta_start: float = 0.00085
    beta_end: float = 0.012


class SigmaSteps(NamedTuple):
    """The steps: their timesteps, and σ at each and at the end of the last."""

    timesteps: Float32[np.ndarray, " m"]
    sigmas: Float32[np.ndarray, " m_plus_1"]

    @property
    def levels(self) -> list[Level]:
        """The level of each step, and the one where the last ends."""
        timesteps = [*self.timesteps, np.float32(0)]
        return [sigma_level(*pair) for pair in zip(timesteps, self.sigmas, strict=True)]


def sigma_level(t: np.floating, sigma: np.floating) -> Level:
    """Returns the level of x = x_0 + σ ε, at a timestep that may be a fraction."""
    sigma = np.float64(sigma)
    return Level(np.float32(t), np.float64(1), sigma, 1 / np.sqrt(sigma**2 + 1))


def trained_level(sigma: np.floating, sigmas: Float32[np.ndarray, " T"]) -> Level:
    """Returns the level of a σ between those of the training timesteps."""
    return sigma_level(sigma_to_t(np.array([sigma]), np.log(sigmas))[0], sigma)


def training_sigmas(config: BetaConfig, *, zero_snr: bool = False) -> Float32[np.ndarray, " T"]:
    """Returns σ of each training timestep, rising; `zero_snr` rescales the betas."""
    alphas = alphas_cumprod(config, zero_snr=zero_snr)
    if zero_snr:
        alphas[-1] = TERMINAL_ALPHA
    return np.sqrt((1 - alphas) / alphas)


def sigma_steps(
    config: SigmaConfig,
    num_inference_steps: int,
    sigmas: Float32[np.ndarray, " T"],
    *,
    log_linear: bool = False,
    ends: Ends = OWN_ENDS,
    rounded_karras: bool = False,
    final: SupportsFloat = 0.0,
) -> SigmaSteps:
    """Returns the steps.

    "linspace" visits fractional timesteps: σ is interpolated linearly between whole ones.

    Args:
      config: the class's fields.
      num_inference_steps: number of steps.
      sigmas: of the training timesteps.
      log_linear: visits values evenly spaced in log σ, whatever the timesteps are.
      ends: where a rule that spaces σ begins and ends.
      rounded_karras: whether use_karras_sigmas has whole timesteps.
      final: the σ where the last step ends.

    Raises:
      UserError: the number of steps is not one that the spacing can make, or several fields space
        σ.
    """
    n, t = num_inference_steps, float_timesteps(config, num_inference_steps)
    visited = np.interp(t, np.arange(len(sigmas)), sigmas)
    if log_linear:
        visited = np.geomspace(sigmas[-1], sigmas[0], n + 1, dtype=np.float64)
    rule = config.spread if isinstance(config, Spread) else None
    if rule is not None:
        visited = SPREADS[rule](*ends.or_else(visited[0], visited[-1]), n)
        t = sigma_to_t(visited, np.log(sigmas))
        t = (t.round() if rule == "karras" and rounded_karras else t).astype(np.float32)
    # The values of log_linear are one more than the steps: the last step ends at the last of them.
    return SigmaSteps(t, np.append(visited, float(final))[: n + 1].astype(np.float32))


def init_noise_sigma(config: SpacedConfig, steps: SigmaSteps) -> np.float32:
    """Returns the scale of the first x: σ_max, or √(σ_max² + 1) if it is at a t below T - 1."""
    largest = steps.sigmas.max()
    return np.sqrt(largest**2 + 1) if config.timestep_spacing == "leading" else largest


def ancestral(sigma: np.float64, end: np.float64) -> tuple[np.float64, np.float64]:
    """Returns the σ of the noise that a step adds, and the one that it goes down to before."""
    up = np.sqrt(end**2 * (sigma**2 - end**2) / sigma**2)
    return up, end**2 / sigma  # √(end² - up²), which would cancel
