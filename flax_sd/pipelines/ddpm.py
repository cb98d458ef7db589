"""DDPM: an unconditional model from a diffusers folder, which generates images from noise."""

import functools
from collections.abc import Mapping, Sequence
from typing import Literal, SupportsIndex, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike
from PIL import Image

from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.pipelines.base import Pipeline, network
from flax_sd.pipelines.outputs import check_output, in_form
from flax_sd.pipelines.request import read_seeds
from flax_sd.pipelines.sampling_loop import Callback, run
from flax_sd.samplers import Carry, Sampler, StepNoise, initial_noise, run_steps
from flax_sd.system import sharding
from flax_sd.system.program import jit
from flax_sd.weights import family
from flax_sd.weights.model import Model


class DDPM(Pipeline):
    """A UNet that generates images without prompts (Ho et al. 2020), and its scheduler's config.

    Attributes:
      unet: an `nnx.Module`, (images [b, H, W, 3], timesteps [b]) -> [b, H, W, 3]; may be replaced.
    """

    kinds = (family.DDPM,)
    unet = network("unet")

    def __init__(self, model: Model):
        """Wraps a loaded model; its network is not copied."""
        super().__init__(model)
        self._sample = jit(_sample, static_argnums=(0, 2))

    @property
    def config(self) -> JsonObject:
        """The UNet's raw config.json."""
        return self.model.files.config("unet")

    @overload
    def generate(
        self,
        count: int = 1,
        num_inference_steps: int | None = None,
        sampler: str | Mapping[str, object] | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        height: int | None = None,
        width: int | None = None,
        output: Literal["uint8", "float"] = "uint8",
        step_options: Mapping[str, object] | None = None,
        *,
        callback: Callback | None = None,
    ) -> np.ndarray: ...
    @overload
    def generate(
        self,
        count: int = 1,
        num_inference_steps: int | None = None,
        sampler: str | Mapping[str, object] | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        height: int | None = None,
        width: int | None = None,
        *,
        output: Literal["pil"],
        step_options: Mapping[str, object] | None = None,
        callback: Callback | None = None,
    ) -> list[Image.Image]: ...
    def generate(
        self,
        count: int = 1,
        num_inference_steps: int | None = None,
        sampler: str | Mapping[str, object] | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        height: int | None = None,
        width: int | None = None,
        output: Literal["uint8", "float", "pil"] = "uint8",
        step_options: Mapping[str, object] | None = None,
        *,
        callback: Callback | None = None,
    ) -> np.ndarray | list[Image.Image]:
        """Generates images, as diffusers' `DDPMPipeline` does with generators of the same seeds.

        Args:
          count: number of images.
          num_inference_steps: None for as many as the model was trained with.
          sampler: None for the model's own, a name in `flax_sd.samplers.SAMPLERS` for that class
            with the model's config, or a scheduler config that is used unchanged.
          seed: seed of the first image, from which the next ones count up; or one for each image.
          height: in pixels; None for the height that the model was trained on.
          width: in pixels; None for the width that the model was trained on.
          output: "uint8" images [b, H, W, 3], "float" images in [0, 1], or "pil", a list of them.
          step_options: options of the sampler's steps, such as {"eta": 1.0}.
          callback: `StableDiffusion.generate` describes it; its latents are pixels in [-1, 1].

        Returns:
          The images [b, H, W, 3], or a list of PIL images.

        Raises:
          UserError: an argument is not valid, or an image has NaN.
        """
        check_output(output, ("uint8", "float", "pil"))
        seeds, shape = self._request(count, seed, (height, width))
        steps = samplers.from_config(
            sampler_config(self.scheduler_config, sampler),
            num_inference_steps or train_steps(self.scheduler_config),
            **(step_options or {}),
        )
        noise = StepNoise(seeds, steps.grid.draws, *shape) if steps.stochastic else None
        x = initial_noise(seeds, *shape) * np.asarray(steps.init_noise_sigma)
        placed = jnp.asarray(x) if self._batch is None else jax.device_put(x, self._batch)
        fixed = *nnx.split(self.unet), sharding.mesh_of(placed)
        program = functools.partial(self._sample, *fixed)
        pixels = np.asarray(run(program, steps, placed, noise, callback))
        return in_form(np.clip(pixels / 2 + 0.5, 0, 1), output)

    def _request(
        self, count: int, seed: object, size: tuple[int | None, int | None]
    ) -> tuple[list[int], tuple[int, int, int]]:
        """Returns the seed of each image, and the shape [h, w, c] of all.

        Raises:
          UserError: an argument is not valid; all problems are named.
        """
        problems = [] if count > 0 else [f"count is {count}: should be 1 or more"]
        seeds = read_seeds(seed, count, problems)
        stride = 2 ** (len(self.unet.config.block_out_channels) - 1)
        sides = []
        for name, side, own in zip(("height", "width"), size, self.sample_size, strict=True):
            sides.append(own if side is None else side)
            if sides[-1] < stride or sides[-1] % stride:
                problems.append(f"{name} is {sides[-1]}: should be a positive multiple of {stride}")
        devices = 1 if self._batch is None else self._batch.num_devices
        if count % devices:
            problems.append(f"count is {count}: should be a multiple of {devices} devices")
        if problems:
            raise UserError("; ".join(problems))
        return seeds, (sides[0], sides[1], self.unet.config.in_channels)

    @property
    def sample_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that it was trained on."""
        return sample_size(self.config)


def sample_size(config: JsonObject) -> tuple[int, int]:
    """Returns height and width in pixels from a raw config.json; 32, as in the paper, if absent."""
    size = config.get("sample_size") or 32
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def train_steps(scheduler_config: JsonObject) -> int:
    """Returns the number of timesteps that a model was trained with."""
    return scheduler_config.get("num_train_timesteps", 1000)


def sampler_config(
    scheduler_config: Mapping[str, object], sampler: str | Mapping[str, object] | None
) -> JsonObject:
    """Returns what `samplers.from_config` takes: the model's config, by name, or the given one.

    Raises:
      UserError: there is no sampler of that name.
    """
    if isinstance(sampler, str):
        return samplers.by_name(sampler, scheduler_config)
    return dict(scheduler_config if sampler is None else sampler)


def _sample(
    graph: nnx.GraphDef,
    state: nnx.State,
    mesh: Mesh,
    sampler: Sampler,
    carry: Carry,
    first: ArrayLike,
    last: ArrayLike,
    noise: ArrayLike | None,
) -> Carry:
    """Runs steps, by the paper's algorithm 2 if the sampler is DDPM."""
    unet = nnx.merge(graph, state)

    def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
        return unet(x, jnp.full(len(x), t)).astype(jnp.float32)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return run_steps(sampler, denoise, carry, (first, last), noise)
