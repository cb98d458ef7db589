"""Weights w(t) of the timesteps in the loss, from the noise schedule.

The papers weigh the error of x_0 or of the noise; here both are converted to the error of the
network's output. With SNR = ᾱ/(1 - ᾱ), squared errors are related by
e(noise) = SNR · e(x_0) and e(velocity) = (SNR + 1) · e(x_0).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_sd.config.loss import LossConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError

Weight = Callable[[Int[Array, " b"]], Float[Array, " b"]]
MAX_SNR = 1000.0  # above it debiased weights are constant, as in sd-scripts


def make_weight(schedule: NoiseSchedule, cfg: LossConfig) -> Weight | None:
    """Returns the weight that the config names; None weighs all timesteps alike.

    Raises:
      UserError: it is infinite at a timestep.
    """
    if cfg.weight == "none":
        return None
    if cfg.weight == "debiased":
        return debiased(schedule)
    if cfg.weight == "p2":
        return p2(schedule, cfg.meant("gamma"))
    if cfg.weight == "soft_min_snr":
        return soft_min_snr(schedule, cfg.meant("gamma"))
    return min_snr(schedule, cfg.meant("gamma"))


def min_snr(schedule: NoiseSchedule, gamma: float) -> Weight:
    """Builds min(SNR, γ) for x_0's error (Hang et al. 2023, arXiv 2303.09556, eq. 7).

    If the last timestep is pure noise, its SNR is 0 and its weight 1 for noise, 0 for velocity.
    """

    def weight(t: Int[Array, " b"]) -> Float[Array, " b"]:
        snr = schedule.snr(t)
        if schedule.prediction_type == "epsilon":
            return jnp.minimum(1.0, gamma / snr)  # γ/0 is infinite: the division never gives NaN
        return _from_x0(schedule, snr, jnp.minimum(snr, gamma))

    return weight


def soft_min_snr(schedule: NoiseSchedule, gamma: float) -> Weight:
    """Builds 1/(1/SNR + 1/γ) for x_0's error, a smooth min-SNR (Crowson et al. 2024, §3.4.1)."""

    def weight(t: Int[Array, " b"]) -> Float[Array, " b"]:
        snr = schedule.snr(t)
        if schedule.prediction_type == "epsilon":
            return gamma / (snr + gamma)
        return _from_x0(schedule, snr, snr * gamma / (snr + gamma))

    return weight


def debiased(schedule: NoiseSchedule) -> Weight:
    """Builds 1/√SNR for the noise's error (Yu et al. 2023, arXiv 2310.08442, eq. 13).

    For velocity it is 1/(SNR + 1), as in sd-scripts: x_0's error itself. As there, the SNR is
    limited to MAX_SNR.

    Raises:
      UserError: the network predicts noise, and the last timestep is pure noise.
    """
    if schedule.prediction_type == "epsilon" and float(schedule.alphas_cumprod[-1]) == 0:
        raise UserError(
            "loss.weight debiased is infinite where the last timestep is pure noise and the model "
            "predicts the noise; min_snr and soft_min_snr are not"
        )

    def weight(t: Int[Array, " b"]) -> Float[Array, " b"]:
        snr = jnp.minimum(schedule.snr(t), MAX_SNR)
        if schedule.prediction_type == "v_prediction":
            return 1 / (snr + 1)
        root = jnp.sqrt(snr)
        return root if schedule.prediction_type == "sample" else 1 / root

    return weight


def p2(schedule: NoiseSchedule, gamma: float) -> Weight:
    """Builds (1 + SNR)^-γ for the noise's error (Choi et al. 2022, arXiv 2204.00227, eq. 8).

    For velocity it is (2 + SNR)^-γ, as in OneTrainer.
    """

    def weight(t: Int[Array, " b"]) -> Float[Array, " b"]:
        snr = schedule.snr(t)
        if schedule.prediction_type == "v_prediction":
            return (2 + snr) ** -gamma
        scaled = (1 + snr) ** -gamma
        return snr * scaled if schedule.prediction_type == "sample" else scaled

    return weight


def _from_x0(schedule: NoiseSchedule, snr: Array, weight: Array) -> Array:
    """Converts a weight of x_0's error to one of the network's output, x_0 or velocity."""
    return weight / (snr + 1) if schedule.prediction_type == "v_prediction" else weight
