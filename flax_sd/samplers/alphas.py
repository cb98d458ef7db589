"""Reading ᾱ at the timesteps of a sampler's steps."""

import numpy as np
from jaxtyping import Float32, Int

from flax_sd.errors import UserError
from flax_sd.scheduler_config import BetaConfig


def previous(
    alphas: Float32[np.ndarray, " T"], t_prev: Int[np.ndarray, " m"], *, final: np.float32
) -> Float32[np.ndarray, " m"]:
    """ᾱ where the steps lead; `final` where that is below timestep 0."""
    return np.where(t_prev >= 0, alphas[np.maximum(t_prev, 0)], final).astype(np.float32)


def refuse_no_signal(
    config: BetaConfig, t: Int[np.ndarray, " m"], alphas: Float32[np.ndarray, " T"]
) -> None:
    """Refuses to predict the noise where there is nothing else (diffusers returns NaN there).

    Raises:
      UserError: the network predicts epsilon and a step begins at ᾱ_t = 0.
    """
    if config.prediction_type == "epsilon" and not alphas[t].all():
        raise UserError(
            f"prediction_type epsilon says nothing about x_0 at timestep {t[alphas[t] == 0][0]}, "
            "where rescale_betas_zero_snr leaves noise alone: use v_prediction or "
            "timestep_spacing leading"
        )
