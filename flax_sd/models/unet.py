"""UNet2DConditionModel: the noise (or velocity) in latents, given the timestep and the text.

Rombach et al. 2022 (arXiv 2112.10752), §3.3; names are those of diffusers' class.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float, Num

from flax_sd.models import layers
from flax_sd.models.unet_blocks import DownBlock2D, Remat, UNetMidBlock2DCrossAttn, UpBlock2D
from flax_sd.models.unet_config import CROSS_ATTN_DOWN, CROSS_ATTN_UP, UNetConfig


class TimestepEmbedding(nnx.Module):
    """linear_2(silu(linear_1(x)))."""

    def __init__(self, c_in: int, width: int, *, rngs: nnx.Rngs):
        self.linear_1 = layers.linear(c_in, width, rngs=rngs)
        self.linear_2 = layers.linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b c_in"]) -> Float[Array, "b c_time"]:
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class UNet2DConditionModel(nnx.Module):
    """The network of Stable Diffusion 1.x and 2.x.

    A new one outputs zero: `conv_out`, the last convolution of every ResBlock and the output
    projection of every transformer start at zero (Ho et al. 2020; guided_diffusion/unet.py).

    Attributes:
      remat: what is kept for the backward pass; the rest is computed again. Gradients are the same.
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.remat: Remat = "none"
        widths = config.block_out_channels
        self.conv_in = layers.conv(config.in_channels, widths[0], rngs=rngs)
        self.time_embedding = TimestepEmbedding(widths[0], config.time_width, rngs=rngs)
        self.down_blocks, c_skips = _down_blocks(config, rngs)
        self.mid_block = UNetMidBlock2DCrossAttn(config, rngs=rngs)
        self.up_blocks = _up_blocks(config, c_skips, rngs)
        self.conv_norm_out = layers.group_norm(
            widths[0], config.norm_num_groups, config.norm_eps, rngs=rngs
        )
        self.conv_out = layers.conv(widths[0], config.out_channels, zero=True, rngs=rngs)

    def __call__(
        self,
        latents: Float[Array, "b h w c_in"],
        t: Num[Array, " b"],
        text: Float[Array, "b m D"],
    ) -> Float[Array, "b h w c_out"]:
        """The raw output for latents at timesteps t, in the parameters' dtype.

        Args:
          latents: scaled, noisy; any height and width.
          t: 0 … T-1; samplers may ask for fractions.
          text: the text encoder's states.
        """
        dtype, remat = layers.dtype_of(self.conv_norm_out), self.remat
        text = text.astype(dtype)
        temb = self._embed_time(t).astype(dtype)
        skips = [self.conv_in(latents.astype(dtype))]
        for block in self.down_blocks:
            skips += block(skips[-1], temb, text, remat=remat)
        x = self.mid_block(skips[-1], temb, text, remat=remat)
        for block in self.up_blocks:
            x = block(x, skips, temb, text, remat=remat)
        return self.conv_out(layers.silu_of(self.conv_norm_out, x))

    def _embed_time(self, t: Num[Array, " b"]) -> Float[Array, "b c_time"]:
        config = self.config
        sinusoids = layers.timestep_embedding(
            t,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        return self.time_embedding(sinusoids.astype(layers.dtype_of(self.conv_norm_out)))


def _down_blocks(config: UNetConfig, rngs: nnx.Rngs) -> tuple[nnx.List, list[int]]:
    """The down blocks, and the channels of every skip connection in the order they are made."""
    widths, blocks = config.block_out_channels, nnx.List([])
    c_skips = [widths[0]]
    for i, kind in enumerate(config.down_block_types):
        with_text = kind == CROSS_ATTN_DOWN
        blocks.append(DownBlock2D(i, c_skips[-1], config, with_text=with_text, rngs=rngs))
        steps = config.layers[i] + (i != len(widths) - 1)  # the step down makes one more
        c_skips += [widths[i]] * steps
    return blocks, c_skips


def _up_blocks(config: UNetConfig, c_skips: list[int], rngs: nnx.Rngs) -> nnx.List:
    """The up blocks, which use up the skip connections from the last one to the first."""
    widths, blocks = config.block_out_channels, nnx.List([])
    c_in, unused = widths[-1], list(c_skips)
    for i, kind in zip(reversed(range(len(widths))), config.up_block_types, strict=True):
        taken = [unused.pop() for _ in range(config.layers[i] + 1)]
        with_text = kind == CROSS_ATTN_UP
        blocks.append(UpBlock2D(i, c_in, taken, config, with_text=with_text, rngs=rngs))
        c_in = widths[i]
    return blocks
