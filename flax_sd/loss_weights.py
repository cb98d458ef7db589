"""How much each timestep counts in the loss: weights w(t), made from the noise schedule."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_sd.schedule import NoiseSchedule

Weight = Callable[[Int[Array, " b"]], Float[Array, " b"]]


def min_snr(schedule: NoiseSchedule, gamma: float) -> Weight:
    """min(SNR, γ) as a weight of the error of x_0 (Hang et al. 2023, arXiv 2303.09556, eq. 7).

    That is min(SNR, γ)/SNR of the noise's squared error and min(SNR, γ)/(SNR + 1) of the
    velocity's. Where the last timestep is pure noise SNR is 0, and these are 1 and 0.
    """

    def weight(t: Int[Array, " b"]) -> Float[Array, " b"]:
        snr = schedule.snr(t)
        if schedule.prediction_type == "epsilon":
            return jnp.minimum(1.0, gamma / snr)  # γ/0 is infinite: the division never gives NaN
        least = jnp.minimum(snr, gamma)
        return least if schedule.prediction_type == "sample" else least / (snr + 1)

    return weight
