"""What draws the pictures of a run's samples, with the weights of the moment."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from flax_sd.config import Config
from flax_sd.data import Pictures
from flax_sd.pipelines.ddpm import DDPM
from flax_sd.pipelines.stable_diffusion import StableDiffusion
from flax_sd.system.precision import resolve_dtype
from flax_sd.training.losses import Trees
from flax_sd.weights.model import Model

AT_ONCE = 4  # pictures a batch of prompts
UNCONDITIONAL_AT_ONCE = 16
BORROWED = 4  # captions taken from the data where none are given


class Interrupted(Exception):
    """The run is to end before all pictures are drawn."""


@runtime_checkable  # as the shape-checked tests need
class Drawer(Protocol):
    """Draws the same pictures each time, but for the weights.

    Attributes:
      prompts: one a picture; none where pictures have none.
      labels: one a picture, in any case.
    """

    prompts: list[str]
    labels: list[str]

    def draw(self, params: Trees) -> UInt8[np.ndarray, "n h w 3"]:
        """All pictures with these weights.

        Raises:
          Interrupted: the run is to end; they are drawn anew when it resumes.
        """
        ...


def make_drawer(
    config: Config, model: Model, pictures: Pictures, stopping: Callable[[], bool]
) -> Drawer | None:
    """The drawer of the mode; None if the config asks for no samples.

    Args:
      stopping: whether the run is to be saved and ended rather than draw on.
    """
    if config.mode.unconditional:
        return Unprompted(config, model, stopping) if config.sample.wanted else None
    prompts = choose_prompts(config, pictures)
    return Prompted(config, model, prompts, stopping) if prompts else None


def choose_prompts(config: Config, pictures: Pictures) -> tuple[str, ...]:
    """`sample.prompts`, or captions of the data if samples are drawn without them."""
    if config.sample.prompts or not config.sample.wanted:
        return config.sample.prompts
    return tuple(pictures.captions(i)[0] for i in range(min(BORROWED, len(pictures))))


class Prompted:
    """Draws prompts from fixed seeds."""

    def __init__(
        self,
        config: Config,
        model: Model,
        prompts: Sequence[str],
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.prompts = self.labels = list(prompts)
        self._config, self._networks, self._stopping = config, model.networks, stopping
        # Of its own: the run takes networks out of `model` once all is encoded.
        own = dataclasses.replace(model, networks=dict(model.networks))
        self._pipeline = StableDiffusion(own)

    def draw(self, params: Trees) -> UInt8[np.ndarray, "n h w 3"]:
        """One picture a prompt."""
        put_into(self._networks, params, self._config)
        settings, side = self._config.sample, self._config.data.resolution
        pictures = []
        for start in range(0, len(self.prompts), AT_ONCE):
            if self._stopping():
                raise Interrupted
            part = self.prompts[start : start + AT_ONCE]
            drawn = self._pipeline.generate(
                part + part[:1] * (AT_ONCE - len(part)),  # padded: one compilation
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                seed=[settings.seed + start + k for k in range(AT_ONCE)],
                height=side,
                width=side,
                clip_skip=self._config.model.clip_skip,
                max_token_length=self._config.data.max_token_length,
            )
            pictures.append(drawn[: len(part)])
        return np.concatenate(pictures)


class Unprompted:
    """Draws pictures of an unconditional model from fixed seeds."""

    def __init__(self, config: Config, model: Model, stopping: Callable[[], bool] = lambda: False):
        first, count = config.sample.seed, config.sample.count
        self.prompts: list[str] = []
        self.labels = [f"seed {seed}" for seed in range(first, first + count)]
        self._config, self._networks, self._stopping = config, model.networks, stopping
        self._model = DDPM(model)

    def draw(self, params: Trees) -> UInt8[np.ndarray, "n h w 3"]:
        """`sample.count` pictures."""
        put_into(self._networks, params, self._config)
        settings, side = self._config.sample, self._config.data.resolution
        size = min(settings.count, UNCONDITIONAL_AT_ONCE)
        pictures = []
        for start in range(0, settings.count, size):  # whole batches: one compilation
            if self._stopping():
                raise Interrupted
            drawn = self._model.generate(
                size,
                num_inference_steps=settings.steps,
                sampler=settings.sampler,
                seed=settings.seed + start,
                height=side,
                width=side,
            )
            pictures.append(drawn)
        return np.concatenate(pictures)[: settings.count]


def put_into(networks: dict[str, Any], params: Trees, config: Config) -> None:
    """Puts the weights of the moment into the networks, in these' own dtype.

    LoRA leaves stay float32.
    """
    whole, dtype = bool(config.fully_trained), jnp.dtype(resolve_dtype(config.compute_dtype))

    def host_copy(leaf: jax.Array) -> np.ndarray:
        return np.asarray(leaf).astype(dtype if whole else leaf.dtype)

    for name, leaves in params.items():
        nnx.update(networks[name], jax.tree.map(host_copy, leaves))
