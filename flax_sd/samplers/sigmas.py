"""The σ parametrisation of Euler's family: x = x_0 + σ ε, so that σ² = (1 - ᾱ) / ᾱ.

Karras et al. 2022 (arXiv 2206.00364) write diffusion sampling as an ODE in σ; the network, trained
on √ᾱ x, is called with x / √(σ² + 1).
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Float64, Int

from flax_sd.diffusion.schedule import alphas_cumprod
from flax_sd.samplers.sampler import Sampler, row
from flax_sd.samplers.timesteps import SpacedConfig, float_timesteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaConfig(SpacedConfig):
    """The fields that Euler and Euler ancestral share."""

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "linspace"
    rescale_betas_zero_snr: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaSampler(Sampler):
    """A sampler whose x is x_0 + σ ε; `sigma` in its tables is each step's σ."""

    tables: Any

    def scale_input(
        self, x: Float[ArrayLike, "b h w c"], i: Int[ArrayLike, ""]
    ) -> Float[Array, "b h w c"]:
        """Returns x / √(σ² + 1), which has the variance that the network was trained on."""
        return jnp.asarray(x) / jnp.sqrt(row(self.tables, i).sigma ** 2 + 1)


def sigma_steps(
    config: SigmaConfig, num_inference_steps: int
) -> tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, " m_plus_1"]]:
    """Returns the timesteps and the σ at each, with the final 0 at which the last step ends.

    "linspace" visits fractional timesteps: σ is interpolated linearly between whole ones.

    Raises:
      UserError: the number of steps is not one that the spacing can make.
    """
    alphas = alphas_cumprod(config, zero_snr=config.rescale_betas_zero_snr)
    if config.rescale_betas_zero_snr:
        alphas[-1] = 2**-24  # as in diffusers: keeps the first σ finite
    t = float_timesteps(config, num_inference_steps)
    sigmas = np.interp(t, np.arange(len(alphas)), np.sqrt((1 - alphas) / alphas))
    return t, np.append(sigmas, 0).astype(np.float32)


def init_noise_sigma(config: SigmaConfig, sigmas: Float32[np.ndarray, " n"]) -> np.float32:
    """Returns the scale of the first x: σ_max, or √(σ_max² + 1) if it is at a t below T - 1."""
    if config.timestep_spacing == "leading":
        return np.sqrt(sigmas.max() ** 2 + 1)
    return sigmas.max()


def step_weights(
    prediction_type: str,
    sigma: Float32[np.ndarray, " m"],
    sigma_hat: Float64[np.ndarray, " m"],
    end: Float64[np.ndarray, " m"],
) -> tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
    """Returns the weights of x and of the network's output in x + (x - x̂_0) / σ̂ · (end - σ̂).

    x̂_0 is x - σ̂ out ("epsilon"), out ("sample") or x / (σ² + 1) - out σ / √(σ² + 1)
    ("v_prediction"). Each weight is computed in float64: with a terminal SNR of zero σ is 4096,
    and in float32 an x of that size would cancel except for its last bits. With churn x has the
    larger σ̂, which diffusers considers for "epsilon" only.
    """
    sigma = sigma.astype(np.float64)
    ratio = end / sigma_hat
    if prediction_type == "epsilon":
        x_weight, out_weight = np.ones_like(ratio), end - sigma_hat
    elif prediction_type == "sample":
        x_weight, out_weight = ratio, 1 - ratio
    else:
        x_weight = ratio + (1 - ratio) / (sigma**2 + 1)
        out_weight = (ratio - 1) * sigma / np.sqrt(sigma**2 + 1)
    return x_weight.astype(np.float32), out_weight.astype(np.float32)
