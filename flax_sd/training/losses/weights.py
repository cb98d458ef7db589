"""Weights w(t) of the timesteps in the loss, from the noise schedule.

The papers weigh the error of x_0 or of the noise; here both are converted to the error of the
network's output. With SNR = ᾱ/(1 - ᾱ), squared errors are related by
e(noise) = SNR · e(x_0) and e(velocity) = (SNR + 1) · e(x_0).
"""

import numpy as np
from jaxtyping import Float32

from flax_sd.config.loss import LossConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError

Weights = Float32[np.ndarray, " T"]  # of each timestep
MAX_SNR = 1000.0  # above it debiased weights are constant, as in sd-scripts


def timestep_weights(schedule: NoiseSchedule, cfg: LossConfig) -> Weights | None:
    """Returns the weights that the config names; None weighs all timesteps alike.

    Raises:
      UserError: one is infinite.
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


def min_snr(schedule: NoiseSchedule, gamma: float) -> Weights:
    """Returns min(SNR, γ) for x_0's error (Hang et al. 2023, arXiv 2303.09556, eq. 7).

    If the last timestep is pure noise, its SNR is 0 and its weight 1 for noise, 0 for velocity.
    """
    snr = _snr(schedule)
    if schedule.prediction_type == "epsilon":
        with np.errstate(divide="ignore"):  # γ/0 is infinite
            return np.minimum(np.float32(1), np.float32(gamma) / snr)
    return _from_x0(schedule, snr, np.minimum(snr, np.float32(gamma)))


def soft_min_snr(schedule: NoiseSchedule, gamma: float) -> Weights:
    """Returns 1/(1/SNR + 1/γ) for x_0's error, a smooth min-SNR (Crowson et al. 2024, §3.4.1)."""
    snr, limit = _snr(schedule), np.float32(gamma)
    if schedule.prediction_type == "epsilon":
        return limit / (snr + limit)
    return _from_x0(schedule, snr, snr * limit / (snr + limit))


def debiased(schedule: NoiseSchedule) -> Weights:
    """Returns 1/√SNR for the noise's error (Yu et al. 2023, arXiv 2310.08442, eq. 13).

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
    snr = np.minimum(_snr(schedule), np.float32(MAX_SNR))
    if schedule.prediction_type == "v_prediction":
        return 1 / (snr + 1)
    root = np.sqrt(snr)
    return root if schedule.prediction_type == "sample" else 1 / root


def p2(schedule: NoiseSchedule, gamma: float) -> Weights:
    """Returns (1 + SNR)^-γ for the noise's error (Choi et al. 2022, arXiv 2204.00227, eq. 8).

    For velocity it is (2 + SNR)^-γ, as in OneTrainer.
    """
    snr, power = _snr(schedule), np.float32(-gamma)
    if schedule.prediction_type == "v_prediction":
        return (2 + snr) ** power
    scaled = (1 + snr) ** power
    return snr * scaled if schedule.prediction_type == "sample" else scaled


def _snr(schedule: NoiseSchedule) -> Weights:
    alphas = np.asarray(schedule.alphas_cumprod)
    return alphas / (1 - alphas)


def _from_x0(schedule: NoiseSchedule, snr: Weights, weight: Weights) -> Weights:
    """Converts weights of x_0's error to those of the network's output, x_0 or velocity."""
    return weight / (snr + 1) if schedule.prediction_type == "v_prediction" else weight
