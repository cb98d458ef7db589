"""UNet2DModel: the noise in an image, given only the timestep.

Ho et al. 2020 (arXiv 2006.11239), appendix B; names are those of diffusers' class.
"""

import functools

from flax import nnx
from jaxtyping import Array, Float, Num, UInt32

from flax_sd.models import layers
from flax_sd.models.layers import Attention, Network
from flax_sd.models.unet_2d_config import ATTN_DOWN, ATTN_UP, UNet2DConfig
from flax_sd.models.unet_blocks import (
    MakeAttention,
    Remat,
    ResnetBlock2D,
    TimestepEmbedding,
    UNetMidBlock2D,
    make_down_blocks,
    make_up_blocks,
)


class UNet2DModel(Network):
    """The network of DDPM.

    A new one outputs zero: `conv_out`, the last convolution of every ResBlock and the output
    projection of every attention start at zero, as in the paper's own code.

    Attributes:
      remat: what is kept for the backward pass; the rest is computed again. Gradients are the same.
    """

    def __init__(self, config: UNet2DConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.remat: Remat = "none"
        widths = config.block_out_channels
        self.conv_in = layers.conv(config.in_channels, widths[0], rngs=rngs)
        self.time_embedding = TimestepEmbedding(config, rngs=rngs)
        makers = [_attention(config, i, rngs) for i in range(len(widths))]
        down = [
            make if kind == ATTN_DOWN else None
            for make, kind in zip(makers, config.down_block_types, strict=True)
        ]
        up = [
            make if kind == ATTN_UP else None
            for make, kind in zip(makers[::-1], config.up_block_types, strict=True)
        ]
        self.down_blocks, c_skips = make_down_blocks(config, down, rngs)
        attention = _attention(config, -1, rngs, scale=config.mid_block_scale_factor)
        middle = functools.partial(UNetMidBlock2D, config, attention=attention, rngs=rngs)
        self.mid_block = None if config.mid_block_type is None else middle()
        self.up_blocks = make_up_blocks(config, up, c_skips, rngs)
        self.conv_norm_out = layers.group_norm(
            widths[0], config.norm_num_groups, config.norm_eps, rngs=rngs
        )
        self.conv_out = layers.conv(widths[0], config.out_channels, zero=True, rngs=rngs)
        made = [] if self.mid_block is None else [self.mid_block]
        blocks = [*self.down_blocks, *made, *self.up_blocks]
        resnets: list[ResnetBlock2D] = [resnet for block in blocks for resnet in block.resnets]
        for number, resnet in enumerate(resnets):
            resnet.dropout, resnet.number = config.dropout, number

    def __call__(
        self,
        pixels: Float[Array, "b h w c_in"],
        t: Num[Array, " b"],
        keys: UInt32[Array, "b 2"] | None = None,
    ) -> Float[Array, "b h w c_out"]:
        """Returns the raw output for images at timesteps t, in the parameters' dtype.

        Args:
          pixels: noisy; any height and width.
          t: 0 … T-1; samplers may ask for fractions.
          keys: in training, jax.random.key_data of each image's key for the dropout; None drops
            nothing.
        """
        dtype, remat = layers.dtype_of(self.conv_norm_out), self.remat
        temb = self.time_embedding(t, dtype)
        skips = [self.conv_in(pixels.astype(dtype))]
        for block in self.down_blocks:
            skips += block(skips[-1], temb, remat=remat, keys=keys)
        x = skips[-1]
        if self.mid_block is not None:
            x = self.mid_block(x, temb, remat=remat, keys=keys)
        for block in self.up_blocks:
            x = block(x, skips, temb, remat=remat, keys=keys)
        return self.conv_out(self.conv_norm_out(x, silu=True))


def _attention(
    config: UNet2DConfig, block: int, rngs: nnx.Rngs, scale: float = 1.0
) -> MakeAttention:
    """Returns the constructor of a block's attentions."""
    return lambda layer: Attention(
        config.block_out_channels[block],
        config.norm_num_groups,
        config.norm_eps,
        heads=config.heads[block],
        scale=scale,
        zero=True,
        rngs=rngs,
    )
