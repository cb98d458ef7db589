"""The jitted programs that generate images from prompts."""

import collections
import functools
from collections.abc import Hashable, Sequence
from typing import SupportsFloat

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from flax_sd.models.clip import TextStates
from flax_sd.models.text_encoders import TextRule, encode_ids
from flax_sd.models.unet_conditions import Conditions
from flax_sd.pipelines.sampling_loop import Callback, run
from flax_sd.samplers import Carry, Sampler, StepNoise, run_steps
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
        self._encode = jit(self._encoding, static_argnums=(0, 3, 4))
        self._sample = jit(self._sampling, static_argnums=(0, 2))
        self._decode = jit(self._decoding, static_argnums=0)

    def encode(
        self,
        text_encoders: Sequence[nnx.Module],
        ids: Sequence[Int[ArrayLike, "b *k n"]],
        skip: int,
        rule: TextRule,
    ) -> TextStates:
        """Returns the states that the UNet reads; ids are those of each text encoder."""
        graphs, states = zip(*map(nnx.split, text_encoders), strict=True)
        return self._encode(graphs, states, [jnp.asarray(own) for own in ids], skip, rule)

    def _encoding(
        self,
        graphs: tuple[nnx.GraphDef, ...],
        states: tuple[nnx.State, ...],
        ids: list[Array],
        skip: int,
        rule: TextRule,
    ) -> TextStates:
        self.traces["encode"] += 1
        return encode_ids(list(map(nnx.merge, graphs, states)), ids, skip, rule)

    def sample(
        self,
        unet: nnx.Module,
        sampler: Sampler,
        x: Float[Array, "b h w c"],
        conditions: Conditions,
        guidance: SupportsFloat,
        noise: StepNoise | None,
        rescale: SupportsFloat = 0.0,
        callback: Callback | None = None,
        span: tuple[int, int] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Runs the steps of the sampler, and returns the latents.

        Args:
          conditions: [b, 2, …], those of negative prompts before those of prompts; [b, 1, …]
            without guidance.
          guidance: traced, so that a new value does not recompile.
          rescale: as `guidance_rescale`; 0 leaves it out of the program.
          noise: of the steps; None if the sampler draws none.
          callback: called after each step, as `generate` describes.
          span: the first step and the one to stop before; None for all.
        """
        how = jnp.float32(float(guidance)), jnp.float32(float(rescale)) if float(rescale) else None
        fixed = *nnx.split(unet), mesh_of(x), conditions, how
        return run(functools.partial(self._sample, *fixed), sampler, x, noise, callback, span)

    def _sampling(
        self,
        graph: nnx.GraphDef,
        state: nnx.State,
        mesh: Mesh,
        conditions: Conditions,
        how: tuple[Array, Array | None],
        sampler: Sampler,
        carry: Carry,
        first: ArrayLike,
        last: ArrayLike,
        noise: ArrayLike | None,
    ) -> Carry:
        self.traces["sample"] += 1
        unet = nnx.merge(graph, state)
        b, k = conditions.text.shape[:2]
        flat = jax.tree.map(lambda leaf: leaf.reshape(b * k, *leaf.shape[2:]), conditions)
        read = flat[:1] if flat.added is None else flat

        def denoise(x: Array, t: Array) -> Array:
            # The two rows of an image are neighbours: a batch stays divided over devices.
            out = unet(jnp.repeat(x, k, axis=0), jnp.full(b * k, t), *read)
            out = out.astype(jnp.float32).reshape(b, k, *out.shape[1:])
            return guide(out[:, 0], out[:, 1], *how) if k == 2 else out[:, 0]

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


def guide(
    negative: Float[Array, "b h w c"],
    positive: Float[Array, "b h w c"],
    scale: Float[Array, ""],
    rescale: Float[Array, ""] | None = None,
) -> Float[Array, "b h w c"]:
    """Returns the guided output of both halves.

    Ho & Salimans 2022 (arXiv 2207.12598), eq. 6, with diffusers' scale w + 1; Lin et al. 2023
    (arXiv 2305.08891), eq. 15 and 16.

    Args:
      rescale: how far the result gets the standard deviation of `positive`; None for not at all.
    """
    guided = negative + scale * (positive - negative)
    if rescale is None:
        return guided
    deviations = (jnp.std(x, (1, 2, 3), keepdims=True, ddof=1) for x in (positive, guided))
    wanted, found = deviations
    return guided * (rescale * (wanted / found) + (1 - rescale))
