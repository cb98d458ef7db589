"""The UNet's blocks: ResBlocks, each followed by a transformer where the block has attention.

Ho et al. 2020 (arXiv 2006.11239), appendix B, with Rombach et al. 2022's transformers; names are
those of diffusers' unet_2d_blocks.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flax_sd.models import layers
from flax_sd.models.recompute import recomputed
from flax_sd.models.unet_attention import Transformer2DModel
from flax_sd.models.unet_config import UNetConfig

# What is kept for the backward pass: everything; the inputs of each ResBlock with its transformer;
# or those, and while one of them is computed again, the inputs of its two halves.
Remat = Literal["none", "blocks", "full"]


class ResnetBlock2D(nnx.Module):
    """(skip(x) + f₂(f₁(x) + W silu(temb))) / scale, where each f is conv3x3(silu(norm(·))).

    `conv2` starts at zero, so that a new block starts as its skip connection.
    """

    def __init__(
        self, c_in: int, c_out: int, config: UNetConfig, *, scale: float = 1.0, rngs: nnx.Rngs
    ):
        norm = functools.partial(
            layers.group_norm, groups=config.norm_num_groups, epsilon=config.norm_eps, rngs=rngs
        )
        self.scale = scale
        self.norm1, self.conv1 = norm(c_in), layers.conv(c_in, c_out, rngs=rngs)
        self.time_emb_proj = layers.linear(config.time_width, c_out, rngs=rngs)
        self.norm2, self.conv2 = norm(c_out), layers.conv(c_out, c_out, zero=True, rngs=rngs)
        self.conv_shortcut = layers.conv(c_in, c_out, 1, rngs=rngs) if c_in != c_out else None

    def __call__(
        self, x: Float[Array, "b h w c_in"], temb: Float[Array, "b c_time"]
    ) -> Float[Array, "b h w c_out"]:
        h = self.conv1(layers.silu_of(self.norm1, x))
        h += self.time_emb_proj(jax.nn.silu(temb))[:, None, None, :]  # one shift for all positions
        h = self.conv2(layers.silu_of(self.norm2, h))
        return (h + (x if self.conv_shortcut is None else self.conv_shortcut(x))) / self.scale


class Downsample2D(nnx.Module):
    """Halves height and width, rounding up."""

    def __init__(self, channels: int, padding: int, *, rngs: nnx.Rngs):
        pad = (padding, padding) if padding else (0, 1)  # 0 means torch's own padding of the VAE
        self.conv = layers.conv(channels, channels, stride=2, padding=(pad, pad), rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Enlarges to a given size by repetition, then convolves."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = layers.conv(channels, channels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"], size: tuple[int, int]
    ) -> Float[Array, "b H W c"]:
        return self.conv(layers.upsample_nearest(x, size))


def residual_layer(
    resnet: ResnetBlock2D,
    transformer: Transformer2DModel | None,
    parts: Sequence[Array],
    temb: Float[Array, "b c_time"],
    text: Float[Array, "b m D"],
    *,
    remat: Remat,
) -> Float[Array, "b h w c"]:
    """transformer(resnet(x, temb), text), where x is `parts` put together along the channels."""

    def both(pair: tuple[ResnetBlock2D, Transformer2DModel | None], *args: Any) -> Array:
        parts, temb, text = args
        run = recomputed if remat == "full" else _call
        x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        x = run(ResnetBlock2D.__call__, pair[0], x, temb)
        return x if pair[1] is None else run(Transformer2DModel.__call__, pair[1], x, text)

    run = _call if remat == "none" else recomputed
    return run(both, (resnet, transformer), list(parts), temb, text)


def _call(function: Callable[..., Array], *args: Any) -> Array:
    return function(*args)


def _transformers(n: int, block: int, config: UNetConfig, rngs: nnx.Rngs) -> nnx.List:
    """The n transformers of one block."""
    return nnx.List(
        [
            Transformer2DModel(
                config.block_out_channels[block],
                config.cross_attention_dim,
                config.heads[block],
                groups=config.norm_num_groups,
                linear=config.use_linear_projection,
                rngs=rngs,
            )
            for _ in range(n)
        ]
    )


def _pairs(
    block: "DownBlock2D | UpBlock2D",
) -> list[tuple[ResnetBlock2D, Transformer2DModel | None]]:
    """Each ResBlock with its transformer, or with None in a block without."""
    transformers = getattr(block, "attentions", [None] * len(block.resnets))
    return list(zip(block.resnets, transformers, strict=True))


class DownBlock2D(nnx.Module):
    """ResBlocks at one size, then a step down unless it is the last; with transformers it is
    diffusers' `CrossAttnDownBlock2D`.
    """

    def __init__(
        self, block: int, c_in: int, config: UNetConfig, *, with_text: bool, rngs: nnx.Rngs
    ):
        c_out, last = config.block_out_channels[block], len(config.block_out_channels) - 1
        widths = [c_in] + [c_out] * (config.layers[block] - 1)
        self.resnets = nnx.List([ResnetBlock2D(c, c_out, config, rngs=rngs) for c in widths])
        if with_text:
            self.attentions = _transformers(len(widths), block, config, rngs)
        if block != last:
            down = Downsample2D(c_out, config.downsample_padding, rngs=rngs)
            self.downsamplers = nnx.List([down])

    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        temb: Float[Array, "b c_time"],
        text: Float[Array, "b m D"],
        *,
        remat: Remat,
    ) -> list[Array]:
        """Everything that the up blocks take again; the last of it is the result."""
        skips = []
        for resnet, transformer in _pairs(self):
            x = residual_layer(resnet, transformer, [x], temb, text, remat=remat)
            skips.append(x)
        for downsampler in getattr(self, "downsamplers", []):
            skips.append(downsampler(x))
        return skips


class UNetMidBlock2DCrossAttn(nnx.Module):
    """ResBlock, transformer, ResBlock at the smallest size."""

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        c, scale = config.block_out_channels[-1], config.mid_block_scale_factor
        self.resnets = nnx.List(
            [ResnetBlock2D(c, c, config, scale=scale, rngs=rngs) for _ in range(2)]
        )
        self.attentions = _transformers(1, -1, config, rngs)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        temb: Float[Array, "b c_time"],
        text: Float[Array, "b m D"],
        *,
        remat: Remat,
    ) -> Float[Array, "b h w c"]:
        x = residual_layer(self.resnets[0], self.attentions[0], [x], temb, text, remat=remat)
        return residual_layer(self.resnets[1], None, [x], temb, text, remat=remat)


class UpBlock2D(nnx.Module):
    """ResBlocks that each take one skip connection, then a step up unless it is the last; with
    transformers it is diffusers' `CrossAttnUpBlock2D`.

    Args:
      block: index of the down block at the same size.
      c_skips: channels of the skip connections in the order of their use.
    """

    def __init__(
        self,
        block: int,
        c_in: int,
        c_skips: Sequence[int],
        config: UNetConfig,
        *,
        with_text: bool,
        rngs: nnx.Rngs,
    ):
        c_out = config.block_out_channels[block]
        inputs = [c_in] + [c_out] * (len(c_skips) - 1)
        widths = [c + c_skip for c, c_skip in zip(inputs, c_skips, strict=True)]
        self.resnets = nnx.List([ResnetBlock2D(c, c_out, config, rngs=rngs) for c in widths])
        if with_text:
            self.attentions = _transformers(len(widths), block, config, rngs)
        if block != 0:
            self.upsamplers = nnx.List([Upsample2D(c_out, rngs=rngs)])

    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        skips: list[Array],
        temb: Float[Array, "b c_time"],
        text: Float[Array, "b m D"],
        *,
        remat: Remat,
    ) -> Float[Array, "b H W c_out"]:
        """Takes its skip connections off the end of `skips`; the next one gives the new size."""
        for resnet, transformer in _pairs(self):
            parts = [x, skips.pop()]
            x = residual_layer(resnet, transformer, parts, temb, text, remat=remat)
        for upsampler in getattr(self, "upsamplers", []):
            x = upsampler(x, skips[-1].shape[1:3])
        return x
