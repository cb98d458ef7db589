"""DREAM: trains on inputs like those in sampling (Zhou et al. 2023).

arXiv 2312.00210, Alg. 1, as in diffusers' `compute_dream_and_update_latents`: one more forward
pass, whose error is added in part to the input and corrected by the target.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError

Network = Callable[[jax.Array, jax.Array], jax.Array]


def check(schedule: NoiseSchedule) -> None:
    """Checks that the network predicts noise, for which alone the method is defined.

    Raises:
      UserError: it does not.
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
    preservation: ArrayLike,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
    """Returns the input x_t + √(1 - ᾱ) δ and target ε + δ, δ = √(1 - ᾱ)^p (ε - network(x_t, t)).

    Args:
      preservation: p; a larger one rectifies less where there is little noise.
    """
    spread = jnp.sqrt(1 - jnp.asarray(schedule.alphas_cumprod)[t])[:, None, None, None]
    guess = jax.lax.stop_gradient(network(noisy, t)).astype(jnp.float32)
    delta = spread**preservation * (noise - guess)
    return noisy + spread * delta, noise + delta
