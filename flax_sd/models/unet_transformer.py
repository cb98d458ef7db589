"""The UNet's transformers: self-attention, attention to the text, and a gated feed-forward layer.

Rombach et al. 2022 (arXiv 2112.10752), appendix E.2.1; names are those of diffusers'
`Transformer2DModel`, `BasicTransformerBlock`, `Attention` and `GEGLU`.
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from flax_sd.models import layers

GROUP_NORM_EPSILON = 1e-6  # of the transformers alone; the ResBlocks beside them have 1e-5
LAYER_NORM_EPSILON = 1e-5


class Attention(nnx.Module):
    """Multi-headed attention of x to `context`: the text, or x itself."""

    def __init__(self, width: int, context_width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.to_q = layers.linear(width, width, bias=False, rngs=rngs)
        self.to_k = layers.linear(context_width, width, bias=False, rngs=rngs)
        self.to_v = layers.linear(context_width, width, bias=False, rngs=rngs)
        out = layers.linear(width, width, rngs=rngs)
        self.to_out: nnx.List[Any] = nnx.List([out, None])  # None: dropout

    def __call__(
        self, x: Float[Array, "b n d"], context: Float[Array, "b m D"]
    ) -> Float[Array, "b n d"]:
        q, k, v = (
            tokens.reshape(*tokens.shape[:-1], self.heads, -1)  # [b, n, k, d]
            for tokens in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out[0](layers.attention(q, k, v).reshape(x.shape))


class GEGLU(nnx.Module):
    """a · gelu(b) with [a, b] = W x; gelu is the erf form."""

    def __init__(self, width: int, out: int, *, rngs: nnx.Rngs):
        self.proj = layers.linear(width, 2 * out, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n D"]:
        return layers.gated_gelu(self.proj(x))


class FeedForward(nnx.Module):
    """Four times as wide inside."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        last = layers.linear(4 * width, width, rngs=rngs)
        first = GEGLU(width, 4 * width, rngs=rngs)
        self.net: nnx.List[Any] = nnx.List([first, None, last])  # None: dropout

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nnx.Module):
    """x + attention(x), + attention(x, text), + feed-forward(x); each takes its own norm of x."""

    def __init__(self, width: int, text_width: int, heads: int, *, rngs: nnx.Rngs):
        self.norm1 = layers.layer_norm(width, LAYER_NORM_EPSILON, rngs=rngs)
        self.attn1 = Attention(width, width, heads, rngs=rngs)
        self.norm2 = layers.layer_norm(width, LAYER_NORM_EPSILON, rngs=rngs)
        self.attn2 = Attention(width, text_width, heads, rngs=rngs)
        self.norm3 = layers.layer_norm(width, LAYER_NORM_EPSILON, rngs=rngs)
        self.ff = FeedForward(width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], text: Float[Array, "b m D"]
    ) -> Float[Array, "b n d"]:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
    """x + proj_out(blocks(proj_in(norm(x)), text)), where each position of the image is a token.

    The projections are 1x1 convolutions or, in SD 2.x, linear maps: the same function of
    differently shaped weights. `proj_out` starts at zero, so that a new network starts as the
    identity here (Dhariwal & Nichol 2021, arXiv 2105.05233, guided_diffusion/unet.py).

    Args:
      depth: number of blocks.
    """

    def __init__(
        self,
        channels: int,
        text_width: int,
        heads: int,
        *,
        depth: int,
        groups: int,
        linear: bool,
        rngs: nnx.Rngs,
    ):
        self.norm = layers.group_norm(channels, groups, GROUP_NORM_EPSILON, rngs=rngs)
        if linear:
            self.proj_in = layers.linear(channels, channels, rngs=rngs)
        else:
            self.proj_in = layers.conv(channels, channels, 1, rngs=rngs)
        self.transformer_blocks = nnx.List(
            [BasicTransformerBlock(channels, text_width, heads, rngs=rngs) for _ in range(depth)]
        )
        if linear:
            self.proj_out = layers.linear(channels, channels, zero=True, rngs=rngs)
        else:
            self.proj_out = layers.conv(channels, channels, 1, zero=True, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], text: Float[Array, "b m D"]
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        tokens = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for block in self.transformer_blocks:
            tokens = block(tokens, text)
        return x + self.proj_out(tokens.reshape(b, h, w, c))
