"""The jitted programs that generate images from prompts."""

import collections
import functools
from collections.abc import Hashable
from typing import SupportsFloat

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from flax_sd.models.clip import encode_ids
from flax_sd.pipelines.callback import Callback, run
from flax_sd.samplers import Carry, Sampler, run_steps
from flax_sd.system.program import jit
from flax_sd.system.sharding import mesh_of


@functools.lru_cache(maxsize=4)
def shared_programs(*configs: Hashable) -> "Programs":
    """Returns the programs of pipelines whose networks have these configs, once in a process."""
    return Programs()


class Programs:
    """The jitted programs of a pipeline, each compiled once for its static arguments and shapes.

    Networks are split into graph (static) and state (an argument), so that new weights, and LoRAs
    of the same ranks, reuse the compiled program.

    Attributes:
      traces: number of times that each program was traced, and so compiled.
    """

    def __init__(self):
        self.traces: collections.Counter[str] = collections.Counter()
        self._encode = jit(self._encoding, static_argnums=(0, 3))
        self._sample = jit(self._sampling, static_argnums=(0, 2))
        self._decode = jit(self._decoding, static_argnums=0)

    def encode(
        self, text_encoder: nnx.Module, ids: Int[ArrayLike, "b *k n"], skip: int
    ) -> Float[Array, "b m d"]:
        """Returns the text states that the UNet attends to."""
        return self._encode(*nnx.split(text_encoder), jnp.asarray(ids), skip)

    def _encoding(self, graph: nnx.GraphDef, state: nnx.State, ids: Array, skip: int) -> Array:
        self.traces["encode"] += 1
        return encode_ids(nnx.merge(graph, state), ids, skip)

    def sample(
        self,
        unet: nnx.Module,
        sampler: Sampler,
        x: Float[Array, "b h w c"],
        text: Float[Array, "b k n d"],
        guidance: SupportsFloat,
        noise: Float[ArrayLike, "m b h w c"] | None,
        callback: Callback | None = None,
    ) -> Float[Array, "b h w c"]:
        """Runs all steps of the sampler, and returns the latents.

        Args:
          text: [b, 2, n, d], negative prompts before prompts; [b, 1, n, d] without guidance.
          guidance: traced, so that a new value does not recompile.
          noise: the noise of each step; None if the sampler draws none.
          callback: called after each step, as `generate` describes.
        """
        scale, drawn = jnp.float32(float(guidance)), None if noise is None else jnp.asarray(noise)
        fixed = *nnx.split(unet), mesh_of(x), sampler, text, scale, drawn

        def steps(carry: Carry, first: ArrayLike, last: ArrayLike) -> Carry:
            return self._sample(*fixed, carry, first, last)

        return run(steps, sampler, x, callback)

    def _sampling(
        self,
        graph: nnx.GraphDef,
        state: nnx.State,
        mesh: Mesh,
        sampler: Sampler,
        text: Array,
        guidance: Array,
        noise: ArrayLike | None,
        carry: Carry,
        first: ArrayLike,
        last: ArrayLike,
    ) -> Carry:
        self.traces["sample"] += 1
        unet = nnx.merge(graph, state)
        b, k, *words = text.shape

        def denoise(x: Array, t: Array) -> Array:
            """Guides by Ho & Salimans 2022 (arXiv 2207.12598), eq. 6, with diffusers' scale w + 1.

            The two rows of an image are neighbours, so that a batch stays divided over devices.
            """
            rows = jnp.repeat(x, k, axis=0)
            out = unet(rows, jnp.full(b * k, t), text.reshape(b * k, *words))
            out = out.astype(jnp.float32).reshape(b, k, *out.shape[1:])
            return out[:, 0] + guidance * (out[:, 1] - out[:, 0]) if k == 2 else out[:, 0]

        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return run_steps(sampler, denoise, carry, (first, last), noise)

    def decode(self, vae: nnx.Module, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W 3"]:
        """Returns images in [0, 1]."""
        return self._decode(*nnx.split(vae), latents)

    def _decoding(self, graph: nnx.GraphDef, state: nnx.State, latents: Array) -> Array:
        self.traces["decode"] += 1
        vae = nnx.merge(graph, state)
        pixels = vae.decode(latents / vae.config.scaling_factor).astype(jnp.float32)
        return jnp.clip(pixels / 2 + 0.5, 0, 1)
