"""IPNDM: PNDM's multistep method from the first step on (Zhang & Chen 2022, arXiv 2204.13902).

As in diffusers its level of noise follows a quarter of a circle, without the ᾱ of any training.
"""

import dataclasses
from types import MappingProxyType

import numpy as np

from flax_sd.samplers.adams_bashforth import blended
from flax_sd.samplers.forms import Form
from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.timesteps import check_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class IPNDMConfig:
    """The fields of diffusers' `IPNDMScheduler`: none that has an effect."""

    unsupported = MappingProxyType({"trained_betas": None})


def make_ipndm(config: IPNDMConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `IPNDMScheduler` is with this config.

    Its timesteps fall from 1 to 0, and the network predicts v, whatever the config says: it is not
    for the networks of Stable Diffusion.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    del config
    check_steps(num_inference_steps, at_most=None)
    places = np.linspace(1, 0, num_inference_steps + 1)
    sigmas = np.sin(places * np.pi / 2) ** 2
    signals = np.sqrt(1 - sigmas**2)
    timesteps = np.arctan2(sigmas, signals) / np.pi * 2
    run = Recording("v_prediction")
    x, outputs = run.x, list[Form]()
    for i, t in enumerate(timesteps[:-1]):
        at = run.predict(x, Level(t, signals[i], sigmas[i]))
        outputs = [run.keep(at.epsilon), *outputs[:3]]
        epsilon = blended(outputs)
        x0 = (at.x - epsilon * sigmas[i]) / max(signals[i], 1e-8)
        x = x0 * signals[i + 1] + epsilon * sigmas[i + 1]
    return run.sampler(x)
