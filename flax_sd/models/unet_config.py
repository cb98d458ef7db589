"""The UNet's config.json: the fields of Stable Diffusion 1.x and 2.x, and those refused."""

import dataclasses
from typing import Any

from flax_sd.errors import UserError
from flax_sd.models.config_json import read_config

DOWN, CROSS_ATTN_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_ATTN_UP = "UpBlock2D", "CrossAttnUpBlock2D"
MID = "UNetMidBlock2DCrossAttn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What of a `unet/config.json` shapes the network; the defaults are diffusers' own.

    Raises UserError if fields do not fit each other.
    """

    sample_size: int | tuple[int, int] | None = None  # latents; a default size, any will do
    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = (CROSS_ATTN_DOWN, CROSS_ATTN_DOWN, CROSS_ATTN_DOWN, DOWN)
    mid_block_type: str = MID
    up_block_types: tuple[str, ...] = (UP, CROSS_ATTN_UP, CROSS_ATTN_UP, CROSS_ATTN_UP)
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1.0
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    attention_head_dim: int | tuple[int, ...] = 8  # a misnomer: the number of heads
    use_linear_projection: bool = False
    upcast_attention: bool | None = False  # always met: the softmax is float32 in any case

    @classmethod
    def from_json(cls, raw: dict[str, Any], where: str = "unet/config.json") -> "UNetConfig":
        """Reads diffusers' config. Raises UserError that names every field not supported."""
        choices = {
            "down_block_types": (DOWN, CROSS_ATTN_DOWN),
            "mid_block_type": (MID,),
            "up_block_types": (UP, CROSS_ATTN_UP),
            "act_fn": ("silu",),
        }
        return read_config(cls, raw, UNSUPPORTED, where, choices=choices)

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads of each down block."""
        return self._per_block(self.attention_head_dim)

    @property
    def layers(self) -> tuple[int, ...]:
        """The number of ResBlocks of each down block; up blocks have one more."""
        return self._per_block(self.layers_per_block)

    @property
    def time_width(self) -> int:
        """The width of the timestep's embedding inside the blocks."""
        return 4 * self.block_out_channels[0]

    def _per_block(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)

    def __post_init__(self) -> None:
        blocks, problems = len(self.block_out_channels), []
        for name in (
            "down_block_types",
            "up_block_types",
            "layers_per_block",
            "attention_head_dim",
        ):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != blocks:
                problems.append(
                    f"{name} has {len(value)} entries: block_out_channels has {blocks}, one a block"
                )
        for name, parts in (
            ("norm_num_groups", (self.norm_num_groups,) * blocks),
            ("attention_head_dim (number of heads)", self.heads),
        ):
            for channels, n in zip(self.block_out_channels, parts, strict=False):
                if n < 1 or channels % n:
                    problems.append(f"{name} {n} does not divide a block's {channels} channels")
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))


# What diffusers' class reads besides, with its defaults (`UNet2DConditionModel.__init__`, 0.42.1).
UNSUPPORTED: dict[str, Any] = {
    "center_input_sample": False,
    "only_cross_attention": False,
    "dropout": 0.0,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}
