"""Self-attention between all positions of a picture, in the autoencoder and in DDPM's UNet."""

from flax import nnx
from jaxtyping import Array, Float

from flax_sd.models import layers


class Attention(nnx.Module):
    """(x + to_out(attention(to_q(n), to_k(n), to_v(n)))) / scale, with n = group_norm(x).

    Reference: diffusers' `Attention` with a residual connection.

    Args:
      groups: of the norm.
      epsilon: of the norm.
      zero: starts `to_out` at zero, so that a new layer changes nothing.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        epsilon: float,
        *,
        heads: int = 1,
        scale: float = 1.0,
        zero: bool = False,
        rngs: nnx.Rngs,
    ):
        self.heads, self.scale = heads, scale
        self.group_norm = layers.group_norm(channels, groups, epsilon, rngs=rngs)
        self.to_q = layers.linear(channels, channels, rngs=rngs)
        self.to_k = layers.linear(channels, channels, rngs=rngs)
        self.to_v = layers.linear(channels, channels, rngs=rngs)
        self.to_out = nnx.List([layers.linear(channels, channels, zero=zero, rngs=rngs)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        tokens = self.group_norm(x).reshape(b, h * w, c)
        split = (b, h * w, self.heads, c // self.heads)  # [b, n, k, d]
        q, k, v = (project(tokens).reshape(split) for project in (self.to_q, self.to_k, self.to_v))
        y = layers.attention(q, k, v).reshape(b, h, w, c)
        return (x + self.to_out[0](y)) / self.scale
