"""UNet2DConditionModel: the noise (or velocity) in latents, given the timestep and the text.

Rombach et al. 2022 (arXiv 2112.10752), §3.3; names are those of diffusers' class.
"""

import functools
from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float, Num

from flax_sd.errors import UserError
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
from flax_sd.models.unet_conditions import AddedConditions, AddedEmbedding
from flax_sd.models.unet_config import (
    CROSS_ATTN_DOWN,
    CROSS_ATTN_UP,
    MID_CROSS_ATTN,
    UNetConfig,
)
from flax_sd.models.unet_transformer import Transformer2DModel


class UNet2DConditionModel(Network):
    """The network of Stable Diffusion 1.x, 2.x and XL.

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
        self.add_embedding = (
            None if config.addition_embed_type is None else AddedEmbedding(config, rngs=rngs)
        )
        down = [
            _transformers(config, i, depths, rngs) if kind == CROSS_ATTN_DOWN else None
            for i, (kind, depths) in enumerate(
                zip(config.down_block_types, config.down_depths, strict=True)
            )
        ]
        up = [
            _transformers(config, -1 - i, depths, rngs) if kind == CROSS_ATTN_UP else None
            for i, (kind, depths) in enumerate(
                zip(config.up_block_types, config.up_depths, strict=True)
            )
        ]
        self.down_blocks, c_skips = make_down_blocks(config, down, rngs)
        attends = config.mid_block_type == MID_CROSS_ATTN
        mid = _transformers(config, -1, config.down_depths[-1], rngs) if attends else None
        middle = functools.partial(UNetMidBlock2D, config, attention=mid, rngs=rngs)
        self.mid_block = None if config.mid_block_type is None else middle()
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
        added: AddedConditions | None = None,
    ) -> Float[Array, "b h w c_out"]:
        """Returns the raw output for latents at timesteps t, in the parameters' dtype.

        Args:
          latents: scaled, noisy; any height and width.
          t: 0 … T-1; samplers may ask for fractions.
          text: the text encoder's states, or those of both in SDXL.
          added: pooled text and sizes, which SDXL reads and no other family.

        Raises:
          UserError: `added` is missing, or not for this network.
        """
        dtype, remat = layers.dtype_of(self.conv_norm_out), self.remat
        text = text.astype(dtype)
        temb = self.time_embedding(t, dtype)
        if (added is None) != (self.add_embedding is None):
            wants = "reads no" if self.add_embedding is None else "needs"
            raise UserError(f"this UNet {wants} added conditions (pooled text and sizes, of SDXL)")
        if self.add_embedding is not None and added is not None:
            temb += self.add_embedding(added.pooled, added.time_ids, dtype)
        skips = [self.conv_in(latents.astype(dtype))]
        for block in self.down_blocks:
            skips += block(skips[-1], temb, text, remat=remat)
        x = skips[-1]
        if self.mid_block is not None:
            x = self.mid_block(x, temb, text, remat=remat)
        for block in self.up_blocks:
            x = block(x, skips, temb, text, remat=remat)
        return self.conv_out(self.conv_norm_out(x, silu=True))


def _transformers(
    config: UNetConfig, block: int, depths: Sequence[int], rngs: nnx.Rngs
) -> MakeAttention:
    """Returns the constructor of a block's transformers, of which each layer has its depth.

    Args:
      block: index of the down block at the same size.
    """
    return lambda layer: Transformer2DModel(
        config.block_out_channels[block],
        config.cross_attention_dim,
        config.heads[block],
        depth=depths[layer],
        groups=config.norm_num_groups,
        linear=config.use_linear_projection,
        rngs=rngs,
    )
