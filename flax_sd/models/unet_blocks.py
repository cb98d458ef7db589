"""The UNets' blocks: ResBlocks, each followed by an attention where the block has one.

Ho et al. 2020 (arXiv 2006.11239), appendix B: their attention is between positions, that of
Rombach et al. 2022 a transformer that reads text. Names are those of diffusers' unet_2d_blocks.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num, UInt32

from flax_sd.models import layers
from flax_sd.models.kernels.recompute import recomputed
from flax_sd.models.layers import dropout
from flax_sd.models.unet_2d_config import UNet2DConfig
from flax_sd.models.unet_config import UNetConfig

Config = UNetConfig | UNet2DConfig
# The index of a layer in its block -> its attention, which is called with x and the context.
MakeAttention = Callable[[int], nnx.Module]
# What is kept for the backward pass: everything; the inputs of each ResBlock with its attention;
# or those, and while one of them is computed again, the inputs of its two halves.
Remat = Literal["none", "blocks", "full"]


class TimestepEmbedding(nnx.Module):
    """linear_2(silu(linear_1(sinusoids of t)))."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        width = config.time_width
        self.linear_1 = layers.linear(config.block_out_channels[0], width, rngs=rngs)
        self.linear_2 = layers.linear(width, width, rngs=rngs)

    def __call__(self, t: Num[Array, " b"], dtype: jnp.dtype) -> Float[Array, "b c_time"]:
        config = self.config
        sinusoids = layers.timestep_embedding(
            t,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        return self.linear_2(jax.nn.silu(self.linear_1(sinusoids.astype(dtype))))


class ResnetBlock2D(nnx.Module):
    """(skip(x) + f₂(f₁(x) + W silu(temb))) / scale, where each f is conv3x3(silu(norm(·))).

    `conv2` starts at zero, so that a new block starts as its skip connection.

    Attributes:
      dropout: share of the last convolution's input that is dropped where keys are given.
      number: tells the layer from the network's others, for what it drops.
    """

    def __init__(
        self, c_in: int, c_out: int, config: Config, *, scale: float = 1.0, rngs: nnx.Rngs
    ):
        norm = functools.partial(
            layers.group_norm, groups=config.norm_num_groups, epsilon=config.norm_eps, rngs=rngs
        )
        self.scale, self.dropout, self.number = scale, 0.0, 0
        self.norm1, self.conv1 = norm(c_in), layers.conv(c_in, c_out, rngs=rngs)
        self.time_emb_proj = layers.linear(config.time_width, c_out, rngs=rngs)
        self.norm2, self.conv2 = norm(c_out), layers.conv(c_out, c_out, zero=True, rngs=rngs)
        self.conv_shortcut = layers.conv(c_in, c_out, 1, rngs=rngs) if c_in != c_out else None

    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        temb: Float[Array, "b c_time"],
        keys: UInt32[Array, "b 2"] | None = None,
    ) -> Float[Array, "b h w c_out"]:
        h = self.conv1(self.norm1(x, silu=True))
        h += self.time_emb_proj(jax.nn.silu(temb))[:, None, None, :]  # one shift for all positions
        h = self.norm2(h, silu=True)
        if self.dropout and keys is not None:
            h = dropout(h, self.dropout, keys, self.number)
        h = self.conv2(h)
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
    attention: nnx.Module | None,
    parts: Sequence[Array],
    temb: Float[Array, "b c_time"],
    *context: Float[Array, "b m D"],
    remat: Remat,
    keys: UInt32[Array, "b 2"] | None = None,
) -> Float[Array, "b h w c"]:
    """Computes attention(resnet(x, temb), context); x is `parts` joined along the channels."""

    def both(pair: tuple[ResnetBlock2D, Callable[..., Array] | None], *args: Any) -> Array:
        parts, temb, keys, context = args
        run = recomputed if remat == "full" else _call
        x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        x = run(_call, pair[0], x, temb, keys)
        return x if pair[1] is None else run(_call, pair[1], x, *context)

    run = _call if remat == "none" else recomputed
    return run(both, (resnet, attention), list(parts), temb, keys, context)


def _call(function: Callable[..., Array], *args: object) -> Array:
    return function(*args)


def _pairs(
    block: "DownBlock2D | UpBlock2D",
) -> list[tuple[ResnetBlock2D, nnx.Module | None]]:
    """Returns each ResBlock with its attention, or with None in a block without."""
    attentions = getattr(block, "attentions", [None] * len(block.resnets))
    return list(zip(block.resnets, attentions, strict=True))


class DownBlock2D(nnx.Module):
    """ResBlocks at one size, then a step down unless it is the last; with attentions it is
    diffusers' `AttnDownBlock2D` or `CrossAttnDownBlock2D`.
    """

    def __init__(
        self,
        block: int,
        c_in: int,
        config: Config,
        *,
        attention: MakeAttention | None,
        rngs: nnx.Rngs,
    ):
        c_out, last = config.block_out_channels[block], len(config.block_out_channels) - 1
        widths = [c_in] + [c_out] * (config.layers[block] - 1)
        self.resnets = nnx.List([ResnetBlock2D(c, c_out, config, rngs=rngs) for c in widths])
        if attention is not None:
            self.attentions = nnx.List([attention(layer) for layer in range(len(widths))])
        if block != last:
            down = Downsample2D(c_out, config.downsample_padding, rngs=rngs)
            self.downsamplers = nnx.List([down])

    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        temb: Float[Array, "b c_time"],
        *context: Float[Array, "b m D"],
        remat: Remat,
        keys: UInt32[Array, "b 2"] | None = None,
    ) -> list[Array]:
        """Returns the skip connections for the up blocks; the last one is the output."""
        skips = []
        for resnet, attention in _pairs(self):
            x = residual_layer(resnet, attention, [x], temb, *context, remat=remat, keys=keys)
            skips.append(x)
        for downsampler in getattr(self, "downsamplers", []):
            skips.append(downsampler(x))
        return skips


class UNetMidBlock2D(nnx.Module):
    """ResBlock, attention, ResBlock at the smallest size; with a transformer it is diffusers'
    `UNetMidBlock2DCrossAttn`, and without an attention the first ResBlock alone.
    """

    def __init__(self, config: Config, *, attention: MakeAttention | None, rngs: nnx.Rngs):
        c, scale = config.block_out_channels[-1], config.mid_block_scale_factor
        count = 1 if attention is None else 2
        self.resnets = nnx.List(
            [ResnetBlock2D(c, c, config, scale=scale, rngs=rngs) for _ in range(count)]
        )
        if attention is not None:
            self.attentions = nnx.List([attention(0)])

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        temb: Float[Array, "b c_time"],
        *context: Float[Array, "b m D"],
        remat: Remat,
        keys: UInt32[Array, "b 2"] | None = None,
    ) -> Float[Array, "b h w c"]:
        attentions = [*getattr(self, "attentions", []), None]
        for resnet, attention in zip(self.resnets, attentions, strict=True):
            x = residual_layer(resnet, attention, [x], temb, *context, remat=remat, keys=keys)
        return x


class UpBlock2D(nnx.Module):
    """ResBlocks that each take one skip connection, then a step up unless it is the last; with
    attentions it is diffusers' `AttnUpBlock2D` or `CrossAttnUpBlock2D`.

    Args:
      block: index of the down block at the same size.
      c_skips: channels of the skip connections in the order of their use.
    """

    def __init__(
        self,
        block: int,
        c_in: int,
        c_skips: Sequence[int],
        config: Config,
        *,
        attention: MakeAttention | None,
        rngs: nnx.Rngs,
    ):
        c_out = config.block_out_channels[block]
        inputs = [c_in] + [c_out] * (len(c_skips) - 1)
        widths = [c + c_skip for c, c_skip in zip(inputs, c_skips, strict=True)]
        self.resnets = nnx.List([ResnetBlock2D(c, c_out, config, rngs=rngs) for c in widths])
        if attention is not None:
            self.attentions = nnx.List([attention(layer) for layer in range(len(widths))])
        if block != 0:
            self.upsamplers = nnx.List([Upsample2D(c_out, rngs=rngs)])

    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        skips: list[Array],
        temb: Float[Array, "b c_time"],
        *context: Float[Array, "b m D"],
        remat: Remat,
        keys: UInt32[Array, "b 2"] | None = None,
    ) -> Float[Array, "b H W c_out"]:
        """Takes its skip connections off the end of `skips`; the next one gives the new size."""
        for resnet, attention in _pairs(self):
            parts = [x, skips.pop()]
            x = residual_layer(resnet, attention, parts, temb, *context, remat=remat, keys=keys)
        for upsampler in getattr(self, "upsamplers", []):
            x = upsampler(x, skips[-1].shape[1:3])
        return x


def make_down_blocks(
    config: Config, attentions: Sequence[MakeAttention | None], rngs: nnx.Rngs
) -> tuple[nnx.List, list[int]]:
    """Builds the down blocks, and the channels of every skip connection in the order they are made.

    Args:
      attentions: what follows the ResBlocks of each block.
    """
    widths, blocks = config.block_out_channels, nnx.List([])
    c_skips = [widths[0]]
    for i, attention in enumerate(attentions):
        blocks.append(DownBlock2D(i, c_skips[-1], config, attention=attention, rngs=rngs))
        steps = config.layers[i] + (i != len(widths) - 1)  # the step down makes one more
        c_skips += [widths[i]] * steps
    return blocks, c_skips


def make_up_blocks(
    config: Config,
    attentions: Sequence[MakeAttention | None],
    c_skips: Sequence[int],
    rngs: nnx.Rngs,
) -> nnx.List:
    """Builds the up blocks, which use up the skip connections from the last one to the first.

    Args:
      attentions: what follows the ResBlocks of each block, in the order of the up blocks.
    """
    widths, blocks = config.block_out_channels, nnx.List([])
    c_in, unused = widths[-1], list(c_skips)
    for i, attention in zip(reversed(range(len(widths))), attentions, strict=True):
        taken = [unused.pop() for _ in range(config.layers[i] + 1)]
        blocks.append(UpBlock2D(i, c_in, taken, config, attention=attention, rngs=rngs))
        c_in = widths[i]
    return blocks
