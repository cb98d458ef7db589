"""A small network with what the LoRA code has to tell apart, and the hash of its names."""

import hashlib

import jax
from flax import nnx

from flax_sd.models import layers


class Attention(nnx.Module):
    def __init__(self, width: int, context: int, rngs: nnx.Rngs):
        self.to_q = layers.linear(width, width, bias=False, rngs=rngs)
        self.to_k = layers.linear(context, width, bias=False, rngs=rngs)
        self.to_out = nnx.List([layers.linear(width, width, rngs=rngs), None])

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        return self.to_out[0](self.to_q(x) + self.to_k(context).mean())


class Small(nnx.Module):
    """Linear and convolution, a list with a hole, names with `_`: what the real ones have."""

    def __init__(self, rngs: nnx.Rngs):
        self.proj_in = layers.conv(3, 6, 1, rngs=rngs)
        self.conv_down = layers.conv(6, 8, 3, 2, ((0, 1), (1, 1)), rngs=rngs)
        self.attn2 = Attention(8, 5, rngs)

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        return self.attn2(self.conv_down(self.proj_in(x)), context)


def small(seed: int = 0) -> Small:
    return Small(nnx.Rngs(seed))


def names_hash(names: list[str]) -> str:
    """As `trainers.md` and its script make the golden hashes."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
