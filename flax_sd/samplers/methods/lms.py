"""LMS, a linear multistep method in σ, as in k-diffusion."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.polynomial import Polynomial

from flax_sd.errors import UserError
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigma_spacing import Spread
from flax_sd.samplers.sigmas import SigmaConfig, init_noise_sigma, sigma_steps, training_sigmas


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMSConfig(SigmaConfig, Spread):
    """The fields of diffusers' `LMSDiscreteScheduler`."""


def make_lms(config: LMSConfig, num_inference_steps: int, *, order: int = 4) -> Sampler:
    """Builds the sampler that diffusers' `LMSDiscreteScheduler` is with this config.

    The slope dx/dσ is integrated as the polynomial through its last values.

    Args:
      order: number of slopes that a step uses.

    Raises:
      UserError: the config, the order or the number of steps is not one that it supports.
    """
    if order < 1:
        raise UserError(f"order is {order}: should be 1 or more")
    steps = sigma_steps(config, num_inference_steps, training_sigmas(config))
    run = Recording(config.prediction_type)
    x, slopes, sigmas = run.x, [], []  # newest first
    for here, there in itertools.pairwise(steps.levels):
        at = run.predict(x, here)
        slopes = [run.keep(at.epsilon_of_x0), *slopes][:order]
        sigmas = [here.sigma, *sigmas][:order]
        x = at.x
        for slope, weight in zip(slopes, _weights(sigmas, there.sigma), strict=True):
            x += slope * weight
    return run.sampler(x, init_noise_sigma(config, steps))


def _weights(sigmas: Sequence[np.float64], end: np.float64) -> list[float]:
    """Returns the integral, from the newest σ to the end, of each Lagrange polynomial."""
    weights = []
    for k, own in enumerate(sigmas):
        basis = Polynomial([1.0])
        for other in (*sigmas[:k], *sigmas[k + 1 :]):
            basis *= Polynomial([-other, 1.0]) / (own - other)
        weights.append(basis.integ(lbnd=sigmas[0])(end))
    return weights
