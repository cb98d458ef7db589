"""Euler's method on the probability-flow ODE, with optional churn (Karras et al. 2022, alg. 2)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from flax_sd.diffusion.scheduler_config import read_config
from flax_sd.samplers.sampler import Carry, Grid, Table, row
from flax_sd.samplers.sigmas import (
    SigmaConfig,
    SigmaSampler,
    init_noise_sigma,
    sigma_steps,
    step_weights,
)

UNSUPPORTED = {
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
    "timestep_type": "discrete",
    "final_sigmas_type": "zero",
}


class EulerTables(NamedTuple):
    """Values of each step, float32 [m]."""

    sigma: Table
    x_weight: Table
    out_weight: Table
    std: Table  # of the noise that raises σ to σ̂


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler(SigmaSampler):
    """x ← x + (x - x̂_0) / σ̂ · (σ_next - σ̂), where σ̂ is σ raised by churn."""

    tables: EulerTables

    def step(
        self,
        carry: Carry,
        model_output: Float[ArrayLike, "b h w c_out"],
        i: Int[ArrayLike, ""],
        noise: Float[ArrayLike, "b h w c"] | None = None,
    ) -> Carry:
        """Takes one step, in which noise first raises σ to σ̂ if there is churn."""
        at, x, out = row(self.tables, i), carry.x, jnp.asarray(model_output, jnp.float32)
        if self.stochastic:
            x = x + at.std * self._drawn(noise)
        return Carry(at.x_weight * x + at.out_weight * out)


def make_euler(
    raw: Mapping[str, object],
    num_inference_steps: int,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Euler:
    """Builds the sampler that diffusers' `EulerDiscreteScheduler` is with this config.

    Args:
      s_churn: amount of noise to add over all steps; 0 for the deterministic method.
      s_tmin: lowest σ at which noise is added.
      s_tmax: highest σ at which noise is added.
      s_noise: scale of that noise.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    config = read_config(SigmaConfig, raw, UNSUPPORTED)
    t, sigmas = sigma_steps(config, num_inference_steps)
    sigma = sigmas[:-1]
    churn = min(s_churn / len(sigma), math.sqrt(2) - 1)
    gamma = np.where((s_tmin <= sigma) & (sigma <= s_tmax), churn, 0).astype(np.float32)
    sigma_hat = (sigma * (gamma + 1)).astype(np.float64)
    std = s_noise * np.sqrt(sigma_hat**2 - sigma.astype(np.float64) ** 2)
    kind, end = config.prediction_type, sigmas[1:].astype(np.float64)
    draws = gamma > 0
    return Euler(
        grid=Grid(t, draws, init_noise_sigma(config, sigmas)),
        stochastic=bool(draws.any()),
        tables=EulerTables(
            sigma, *step_weights(kind, sigma, sigma_hat, end), std.astype(np.float32)
        ),
    )
