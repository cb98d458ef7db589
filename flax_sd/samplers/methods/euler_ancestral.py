"""Euler steps down past the next σ, then noise back up to it (k-diffusion's `euler_ancestral`)."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerAncestralConfig(SigmaConfig):
    """The fields of diffusers' `EulerAncestralDiscreteScheduler`."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


class EulerAncestralTables(NamedTuple):
    """Values of each step, float32 [m]."""

    sigma: Table
    x_weight: Table
    out_weight: Table
    sigma_up: Table  # of the noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerAncestral(SigmaSampler):
    """x ← x + (x - x̂_0) / σ · (σ_down - σ) + σ_up z, where σ_down² + σ_up² = σ_next²."""

    tables: EulerAncestralTables

    def step(
        self,
        carry: Carry,
        model_output: Float[ArrayLike, "b h w c_out"],
        i: Int[ArrayLike, ""],
        noise: Float[ArrayLike, "b h w c"] | None = None,
    ) -> Carry:
        """Takes one step; draws noise on the last one too, where its scale is 0."""
        at, x, out = row(self.tables, i), carry.x, jnp.asarray(model_output, jnp.float32)
        return Carry(at.x_weight * x + at.out_weight * out + at.sigma_up * self._drawn(noise))


def make_euler_ancestral(raw: Mapping[str, object], num_inference_steps: int) -> EulerAncestral:
    """Builds the sampler that diffusers' `EulerAncestralDiscreteScheduler` is with this config.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    config = read_config(EulerAncestralConfig, raw)
    t, sigmas = sigma_steps(config, num_inference_steps)
    start, end = sigmas[:-1].astype(np.float64), sigmas[1:].astype(np.float64)
    up = np.sqrt(end**2 * (start**2 - end**2) / start**2)
    down = end**2 / start  # √(end² - up²), which would cancel
    weights = step_weights(config.prediction_type, sigmas[:-1], start, down)
    return EulerAncestral(
        grid=Grid(t, np.full(t.shape, True), init_noise_sigma(config, sigmas)),
        stochastic=True,
        tables=EulerAncestralTables(sigmas[:-1], *weights, up.astype(np.float32)),
    )
