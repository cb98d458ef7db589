"""UNet2DConditionModel: the noise (or velocity) in latents, given the timestep and the text.

Rombach et al. 2022 (arXiv 2112.10752), §3.3; names are those of diffusers' class.
"""

import functools

from flax import nnx
from jaxtyping import Array, Float, Num

from flax_sd.models import layers
from flax_sd.models.layers import Network
from flax_sd.models.unet_blocks import (
    MakeAttention,
    Remat,
    TimestepEmbedding,
    UNetMidBlock2D,
    make_down_blocks,
    make_up_blocks,
)
from flax_sd.models.unet_config import CROSS_ATTN_DOWN, CROSS_ATTN_UP, UNetConfig
from flax_sd.models.unet_transformer import Transformer2DModel


class UNet2DConditionModel(Network):
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
        self.time_embedding = TimestepEmbedding(config, rngs=rngs)
        transformers = [_transformer(config, i, rngs) for i in range(len(widths))]
        down = [
            make if kind == CROSS_ATTN_DOWN else None
            for make, kind in zip(transformers, config.down_block_types, strict=True)
        ]
        up = [
            make if kind == CROSS_ATTN_UP else None
            for make, kind in zip(transformers[::-1], config.up_block_types, strict=True)
        ]
        self.down_blocks, c_skips = make_down_blocks(config, down, rngs)
        has_middle = config.mid_block_type is not None
        middle = functools.partial(UNetMidBlock2D, config, attention=transformers[-1], rngs=rngs)
        self.mid_block = middle() if has_middle else None
        self.up_blocks = make_up_blocks(config, up, c_skips, rngs)
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
        """Returns the raw output for latents at timesteps t, in the parameters' dtype.

        Args:
          latents: scaled, noisy; any height and width.
          t: 0 … T-1; samplers may ask for fractions.
          text: the text encoder's states.
        """
        dtype, remat = layers.dtype_of(self.conv_norm_out), self.remat
        text = text.astype(dtype)
        temb = self.time_embedding(t, dtype)
        skips = [self.conv_in(latents.astype(dtype))]
        for block in self.down_blocks:
            skips += block(skips[-1], temb, text, remat=remat)
        x = skips[-1]
        if self.mid_block is not None:
            x = self.mid_block(x, temb, text, remat=remat)
        for block in self.up_blocks:
            x = block(x, skips, temb, text, remat=remat)
        return self.conv_out(self.conv_norm_out(x, silu=True))


def _transformer(config: UNetConfig, block: int, rngs: nnx.Rngs) -> MakeAttention:
    """Returns the constructor of a block's transformers."""
    return functools.partial(
        Transformer2DModel,
        config.block_out_channels[block],
        config.cross_attention_dim,
        config.heads[block],
        groups=config.norm_num_groups,
        linear=config.use_linear_projection,
        rngs=rngs,
    )
