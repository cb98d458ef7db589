"""Heun's method on the probability-flow ODE (Karras et al. 2022, alg. 1)."""

import dataclasses
import itertools

from flax_sd.samplers.clipping import Clip
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigmas import (
    SpreadSigmaConfig,
    init_noise_sigma,
    sigma_steps,
    training_sigmas,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeunConfig(SpreadSigmaConfig):
    """The fields of diffusers' `HeunDiscreteScheduler`."""

    clip_sample: bool = False
    clip_sample_range: float = 1.0


def make_heun(config: HeunConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `HeunDiscreteScheduler` is with this config.

    A step of Euler's, and then again with the mean of the slopes at both its ends, but for the last
    step, which ends at σ = 0.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    clip = Clip(largest=config.clip_sample_range) if config.clip_sample else None
    steps = sigma_steps(config, num_inference_steps, training_sigmas(config))
    run = Recording(config.prediction_type, clip)
    x = run.x
    for here, there in itertools.pairwise(steps.levels):
        start = run.predict(x, here)
        slope = run.keep(start.epsilon_of_x0)
        x = start.x + slope * (there.sigma - here.sigma)
        if there.sigma > 0:
            end = run.predict(x, there)
            mean = (slope + end.epsilon_of_x0) / 2
            x = start.x + mean * (there.sigma - here.sigma)
    return run.sampler(x, init_noise_sigma(config, steps), order=2)
