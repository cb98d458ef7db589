"""Chooses n of the T training timesteps for sampling (Lin et al. 2023, table 2)."""

import dataclasses
import operator
from typing import Annotated, Literal, SupportsFloat

import numpy as np
import pydantic
from jaxtyping import Float32, Int

from flax_sd.diffusion.scheduler_config import BetaConfig, Prediction
from flax_sd.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpacedConfig(BetaConfig):
    """The fields that choose the timesteps."""

    prediction_type: Prediction = "epsilon"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: Annotated[int, pydantic.Field(ge=0)] = 0


def integer_timesteps(
    config: SpacedConfig, num_inference_steps: int, alphas: np.ndarray
) -> Int[np.ndarray, " n"]:
    """Returns the timesteps, from noisy to clean, for samplers that look up ᾱ_t.

    Raises:
      UserError: more steps than training had, or a timestep that training did not have.
    """
    n, total = num_inference_steps, config.num_train_timesteps
    check_steps(n, at_most=total)
    timesteps = _spaced(config, n).round().astype(np.int32)
    if timesteps.max() >= len(alphas):
        raise UserError(
            f"{n} steps with timestep_spacing {config.timestep_spacing} and steps_offset "
            f"{config.steps_offset} ask for timestep {timesteps.max()}; "
            f"the last is {len(alphas) - 1}"
        )
    return timesteps


def float_timesteps(config: SpacedConfig, num_inference_steps: int) -> Float32[np.ndarray, " n"]:
    """Returns the timesteps, from noisy to clean, for samplers that interpolate σ between them.

    Raises:
      UserError: the number of steps is not one that the spacing can make.
    """
    leading = config.timestep_spacing == "leading"
    check_steps(num_inference_steps, at_most=config.num_train_timesteps if leading else None)
    timesteps = _spaced(config, num_inference_steps)
    if config.timestep_spacing != "linspace":
        timesteps = timesteps.round()
    return timesteps.astype(np.float32)


def check_steps(num_inference_steps: int, *, at_most: int | None) -> None:
    """Refuses a number of steps below 1 or above `at_most`.

    Raises:
      UserError: it is not a whole number within these bounds.
    """
    bound = "a whole number from 1" + ("" if at_most is None else f" to {at_most}")
    try:
        fits = 1 <= operator.index(num_inference_steps) <= (at_most or num_inference_steps)
    except TypeError:
        fits = False
    if not fits:
        raise UserError(f"num_inference_steps is {num_inference_steps!r}: should be {bound}")


def _spaced(config: SpacedConfig, n: int) -> np.ndarray:
    total = config.num_train_timesteps
    if config.timestep_spacing == "linspace":
        return np.linspace(0, total - 1, n)[::-1]
    if config.timestep_spacing == "leading":
        return (np.arange(n) * (total // n))[::-1] + np.float64(config.steps_offset)
    # As in diffusers, rounding makes this n + 1 values for 62 of the n up to 1000 (61 is the
    # first); the last is then t = -1, which indexes ᾱ from its end there too.
    return np.arange(total, 0, -total / n).round() - 1


def alpha_at(
    alphas: Float32[np.ndarray, " T"], t: int | np.integer, *, final: SupportsFloat
) -> np.float64:
    """Returns ᾱ_t where a step ends; `final` below timestep 0."""
    return np.float64(alphas[t] if t >= 0 else float(final))


def refuse_no_signal(
    config: BetaConfig, t: Int[np.ndarray, " m"], alphas: Float32[np.ndarray, " T"]
) -> None:
    """Refuses to predict the noise from pure noise (diffusers returns NaN there).

    Raises:
      UserError: the network predicts epsilon and a step begins at ᾱ_t = 0.
    """
    if config.prediction_type == "epsilon" and not alphas[t].all():
        raise UserError(
            f"prediction_type epsilon says nothing about x_0 at timestep {t[alphas[t] == 0][0]}, "
            "where rescale_betas_zero_snr leaves noise alone: use v_prediction or "
            "timestep_spacing leading"
        )
