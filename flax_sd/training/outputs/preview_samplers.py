"""Samplers of the preview images of a run, with its current weights."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from flax_sd.config import Config
from flax_sd.data import Images
from flax_sd.pipelines.ddpm import DDPM
from flax_sd.pipelines.stable_diffusion import StableDiffusion
from flax_sd.system.precision import resolve_dtype
from flax_sd.training.losses import Trees
from flax_sd.weights.model import Model

PROMPT_BATCH = 4  # images
UNCONDITIONAL_BATCH = 16  # images
MAX_CAPTIONS = 4  # captions of the data set that serve as prompts if there are none


class Interrupted(Exception):
    """The run is to end before all images are generated."""


@runtime_checkable  # as the shape-checked tests need
class PreviewSampler(Protocol):
    """Generates images from fixed prompts and seeds, with any weights.

    Attributes:
      prompts: a prompt for each image; empty for an unconditional model.
      labels: a label for each image.
    """

    prompts: list[str]
    labels: list[str]

    def generate(self, params: Trees) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns all images, generated with these weights.

        Raises:
          Interrupted: the run is to end; they are generated again when it resumes.
        """
        ...


def make_preview_sampler(
    config: Config, model: Model, images: Images, stopping: Callable[[], bool]
) -> PreviewSampler | None:
    """Returns the sampler of the mode; None if the config asks for no samples.

    Args:
      stopping: returns True if the run is to end before more images are generated.
    """
    if config.mode.unconditional:
        return UnconditionalSampler(config, model, stopping) if config.sample.wanted else None
    prompts = choose_prompts(config, images)
    return PromptSampler(config, model, prompts, stopping) if prompts else None


def choose_prompts(config: Config, images: Images) -> tuple[str, ...]:
    """Returns `sample.prompts`, or captions of the data if there are none."""
    if config.sample.prompts or not config.sample.wanted:
        return config.sample.prompts
    return tuple(images.captions(i)[0] for i in range(min(MAX_CAPTIONS, len(images))))


class PromptSampler:
    """Generates an image for each prompt, from fixed seeds."""

    def __init__(
        self,
        config: Config,
        model: Model,
        prompts: Sequence[str],
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.prompts = self.labels = list(prompts)
        self._config, self._networks, self._stopping = config, model.networks, stopping
        # A copy: the run removes networks from `model` when all is encoded.
        own = dataclasses.replace(model, networks=dict(model.networks))
        self._pipeline = StableDiffusion(own)

    def generate(self, params: Trees) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns one image for each prompt."""
        load_weights(self._networks, params, self._config)
        settings, side = self._config.sample, self._config.data.resolution
        images = []
        for start in range(0, len(self.prompts), PROMPT_BATCH):
            if self._stopping():
                raise Interrupted
            part = self.prompts[start : start + PROMPT_BATCH]
            drawn = self._pipeline.generate(
                part + part[:1] * (PROMPT_BATCH - len(part)),  # padded: one compilation
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                seed=[settings.seed + start + k for k in range(PROMPT_BATCH)],
                height=side,
                width=side,
                clip_skip=self._config.model.clip_skip,
                max_token_length=self._config.data.max_token_length,
            )
            images.append(drawn[: len(part)])
        return np.concatenate(images)


class UnconditionalSampler:
    """Generates images of an unconditional model, from fixed seeds."""

    def __init__(self, config: Config, model: Model, stopping: Callable[[], bool] = lambda: False):
        first, count = config.sample.seed, config.sample.count
        self.prompts: list[str] = []
        self.labels = [f"seed {seed}" for seed in range(first, first + count)]
        self._config, self._networks, self._stopping = config, model.networks, stopping
        self._model = DDPM(model)

    def generate(self, params: Trees) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns `sample.count` images."""
        load_weights(self._networks, params, self._config)
        settings, side = self._config.sample, self._config.data.resolution
        size = min(settings.count, UNCONDITIONAL_BATCH)
        images = []
        for start in range(0, settings.count, size):  # full batches: one compilation
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
            images.append(drawn)
        return np.concatenate(images)[: settings.count]


def load_weights(networks: Mapping[str, nnx.Module], params: Trees, config: Config) -> None:
    """Copies the current trained weights into the networks, cast to each network's dtype.

    LoRA leaves stay float32.
    """
    whole, dtype = bool(config.fully_trained), jnp.dtype(resolve_dtype(config.compute_dtype))

    def host_copy(leaf: jax.Array) -> np.ndarray:
        return np.asarray(leaf).astype(dtype if whole else leaf.dtype)

    for name, leaves in params.items():
        nnx.update(networks[name], jax.tree.map(host_copy, leaves))
