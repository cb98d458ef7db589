"""DDPM: an unconditional model of a diffusers folder, and the pictures that it draws of noise."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, Sharding

from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.pipelines.request import read_seeds, to_uint8
from flax_sd.samplers import Sampler, initial_noise, make_sample_loop, step_noise
from flax_sd.system import sharding
from flax_sd.system.compiler import jit
from flax_sd.weights import family
from flax_sd.weights.fill import as_dtype
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles


class DDPM:
    """A UNet that draws pictures without words (Ho et al. 2020), with its scheduler's config.

    Attributes:
      model: what was loaded, and where it came from.
    """

    def __init__(self, model: Model):
        """Draws with a loaded model, whose network stays where it is."""
        self.model = model
        self._sample = jit(_sample, static_argnums=(0, 2))
        self._batch: Sharding | None = None

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        dtype: str = "float32",
        *,
        revision: str | None = None,
        variant: str | None = None,
    ) -> "DDPM":
        """Loads a DDPMPipeline: a diffusers folder or a hub id.

        Args:
          dtype: of the weights and the arithmetic: float32, bfloat16 or float16.
          revision: branch, tag or commit of a hub id.
          variant: weight files to take, as "fp16" for `diffusion_pytorch_model.fp16.safetensors`.

        Raises:
          UserError: there is no such model, it is damaged or of a kind that is not supported.
        """
        as_dtype(dtype)
        files = ModelFiles.find(source, revision, variant)
        return cls(Model.load(files, dtype, family.DDPM))

    @property
    def unet(self) -> Any:
        """The UNet."""
        return self.model.networks["unet"]

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The raw scheduler_config.json."""
        return self.model.scheduler_config

    def generate(
        self,
        count: int = 1,
        num_inference_steps: int | None = None,
        sampler: str | Mapping[str, Any] | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        height: int | None = None,
        width: int | None = None,
        output: Literal["uint8", "float"] = "uint8",
        step_options: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Draws pictures, those of diffusers' `DDPMPipeline` with generators of the same seeds.

        Args:
          count: how many; the noise of all their steps is held, 12 MB each at 32 px and 1000 steps.
          num_inference_steps: unset takes all that the model was trained with.
          sampler: None for the model's own, a name (`flax_sd.samplers.SAMPLERS`) for the model's
            config made one of that class, or a scheduler config taken as it is.
          seed: of the first picture, those after it count up; or one for each.
          height: pixels; unset takes what the model was trained on.
          width: as height.
          output: "uint8" pictures [b, H, W, 3] or "float" ones in [0, 1].
          step_options: of the sampler's steps, such as {"eta": 1.0}.

        Raises:
          UserError: arguments that cannot be, or a picture that overflowed.
        """
        if output not in ("uint8", "float"):
            raise UserError(f"output {output!r} is not one of uint8, float")
        seeds, shape = self._request(count, seed, (height, width))
        steps = samplers.from_config(
            sampler_config(self.scheduler_config, sampler),
            num_inference_steps or train_steps(self.scheduler_config),
            **(step_options or {}),
        )
        noise = step_noise(seeds, np.asarray(steps.draws), *shape)
        x = initial_noise(seeds, *shape) * np.asarray(steps.init_noise_sigma)
        placed = jnp.asarray(x) if self._batch is None else jax.device_put(x, self._batch)
        drawn = self._sample(*nnx.split(self.unet), sharding.mesh_of(placed), steps, placed, noise)
        pictures = np.asarray(drawn)
        return pictures if output == "float" else to_uint8(pictures)

    def _request(
        self, count: int, seed: Any, size: tuple[int | None, int | None]
    ) -> tuple[list[int], tuple[int, int, int]]:
        """Each picture's seed, and the shape [h, w, c] of all.

        Raises:
          UserError: these cannot be; all problems are named.
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
        """Height and width of the pictures that it was trained on."""
        return sample_size(self.model.files.config("unet"))

    def distribute(self, mesh: Mesh) -> None:
        """Copies the network to every device of a mesh, over which the pictures are divided."""
        if mesh.size > 1:
            nnx.update(self.unet, sharding.replicate(nnx.state(self.unet), mesh))
            self._batch = NamedSharding(mesh, sharding.BATCH)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a diffusers folder, whole or not at all.

        Raises:
          UserError: something else is in the place, or the disk is full.
        """
        self.model.save(named(path))


def sample_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels that a raw config.json names; 32, the paper's, if it does not."""
    size = config.get("sample_size") or 32
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def train_steps(scheduler_config: Mapping[str, Any]) -> int:
    """How many timesteps a model was trained with."""
    return scheduler_config.get("num_train_timesteps", 1000)


def sampler_config(
    scheduler_config: Mapping[str, Any], sampler: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """What `samplers.from_config` takes: the model's own, one made of it by name, or the one given.

    Raises:
      UserError: there is no sampler of that name.
    """
    if isinstance(sampler, str):
        return samplers.by_name(sampler, scheduler_config)
    return dict(scheduler_config if sampler is None else sampler)


def _sample(
    graph: Any, state: Any, mesh: Mesh, sampler: Sampler, x: jax.Array, noise: jax.Array | None
) -> jax.Array:
    """Pictures in [0, 1]: the paper's algorithm 2 where the sampler is its own."""
    unet = nnx.merge(graph, state)

    def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
        return unet(x, jnp.full(len(x), t)).astype(jnp.float32)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        pixels = make_sample_loop(sampler)(denoise, x, noise)
    return jnp.clip(pixels / 2 + 0.5, 0, 1)
