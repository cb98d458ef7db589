"""DDIM: implicit sampling, deterministic at η = 0 (Song et al. 2021, arXiv 2010.02502)."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from flax_sd.diffusion.schedule import alphas_cumprod, predict_epsilon, predict_x0
from flax_sd.diffusion.scheduler_config import read_config
from flax_sd.errors import UserError
from flax_sd.samplers.clipping import Clip, ClipConfig
from flax_sd.samplers.sampler import Carry, Grid, Sampler, Table, row
from flax_sd.samplers.timesteps import integer_timesteps, previous, refuse_no_signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIMConfig(ClipConfig):
    """The fields of diffusers' `DDIMScheduler`."""

    set_alpha_to_one: bool = True


class DDIMTables(NamedTuple):
    """Coefficients of each step, float32 [m]."""

    signal: Table  # √ᾱ_t
    sigma: Table  # √(1 - ᾱ_t)
    signal_prev: Table  # √ᾱ_s where the step leads
    direction: Table  # √(1 - ᾱ_s - std²)
    std: Table  # η times DDPM's standard deviation (eq. 16)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """x_s = √ᾱ_s x̂_0 + √(1 - ᾱ_s - std²) ε̂ + std z (eq. 12)."""

    tables: DDIMTables
    prediction_type: str = dataclasses.field(metadata={"static": True})
    clip: Clip = dataclasses.field(metadata={"static": True})
    use_clipped_model_output: bool = dataclasses.field(metadata={"static": True})

    def step(
        self,
        carry: Carry,
        model_output: Float[ArrayLike, "b h w c_out"],
        i: Int[ArrayLike, ""],
        noise: Float[ArrayLike, "b h w c"] | None = None,
    ) -> Carry:
        """Takes one step; ε̂ is that of the unclipped x̂_0 unless `use_clipped_model_output`."""
        out, x, kind = jnp.asarray(model_output, jnp.float32), carry.x, self.prediction_type
        at = row(self.tables, i)
        x0 = self.clip(predict_x0(kind, x, out, at.signal, at.sigma))
        if self.use_clipped_model_output:
            eps = predict_epsilon("sample", x, x0, at.signal, at.sigma)
        else:
            eps = predict_epsilon(kind, x, out, at.signal, at.sigma)
        x = at.signal_prev * x0 + at.direction * eps
        if self.stochastic:
            x = x + at.std * self._drawn(noise)
        return Carry(x)


def make_ddim(
    raw: Mapping[str, object],
    num_inference_steps: int,
    *,
    eta: float = 0.0,
    use_clipped_model_output: bool = False,
) -> DDIM:
    """Builds the sampler that diffusers' `DDIMScheduler` is with this config.

    Args:
      eta: fraction of DDPM's noise to add, from 0 to 1.
      use_clipped_model_output: computes ε̂ from the clipped x̂_0, as GLIDE does.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    config = read_config(DDIMConfig, raw)
    alphas = alphas_cumprod(config, zero_snr=config.rescale_betas_zero_snr)
    t = integer_timesteps(config, num_inference_steps, alphas)
    refuse_no_signal(config, t, alphas)
    # diffusers steps by T // n with any spacing, so that with "linspace" and "trailing" a step
    # ends close to the next timestep, but not at it.
    stride = np.int32(config.num_train_timesteps // num_inference_steps)
    final = np.float32(1) if config.set_alpha_to_one else alphas[0]
    a, a_prev = alphas[t], previous(alphas, t - stride, final=final)
    std = np.float32(eta) * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    left = 1 - a_prev - std**2
    if left.min() < -1e-6:
        raise UserError(f"eta is {eta}: it asks for more noise than a step has; 0 to 1 is right")
    direction = np.sqrt(np.maximum(left, 0))  # at η = 1 rounding may leave it just below 0
    tables = DDIMTables(np.sqrt(a), np.sqrt(1 - a), np.sqrt(a_prev), direction, std)
    return DDIM(
        grid=Grid(t, np.full(t.shape, eta > 0), np.float32(1)),
        stochastic=eta > 0,
        tables=tables,
        prediction_type=config.prediction_type,
        clip=config.clip(),
        use_clipped_model_output=use_clipped_model_output,
    )
