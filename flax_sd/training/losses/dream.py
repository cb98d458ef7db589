"""DREAM: trains on what the network itself would meet in sampling (Zhou et al. 2023).

arXiv 2312.00210, Alg. 1, as diffusers' `compute_dream_and_update_latents` has it: for the price of
a forward pass, the input holds part of the error that the network makes, and the target undoes it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError

Network = Callable[[jax.Array, jax.Array], jax.Array]


def check(schedule: NoiseSchedule) -> None:
    """Sees that the network puts out noise.

    Raises:
      UserError: it does not, and the method is not defined.
    """
    if schedule.prediction_type != "epsilon":
        raise UserError(
            f"loss.dream is for models that predict epsilon, and this one predicts "
            f"{schedule.prediction_type}"
        )


def rectify(
    network: Network,
    schedule: NoiseSchedule,
    noisy: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    noise: Float[Array, "b h w c"],
    preservation: float,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
    """The input x_t + √(1 - ᾱ) δ and the target ε + δ, δ = √(1 - ᾱ)^p (ε - network(x_t, t)).

    Args:
      preservation: p; the larger, the less is rectified where there is little noise.
    """
    spread = jnp.sqrt(1 - jnp.asarray(schedule.alphas_cumprod)[t])[:, None, None, None]
    guess = jax.lax.stop_gradient(network(noisy, t)).astype(jnp.float32)
    delta = spread**preservation * (noise - guess)
    return noisy + spread * delta, noise + delta
