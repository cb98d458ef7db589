"""The config.json of an unconditional UNet: the fields of DDPM's models, and those refused."""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import pydantic

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models.config_json import (
    BLOCKS,
    Depth,
    Width,
    block_problems,
    diffusers_spelling,
    read_config,
)

DOWN, ATTN_DOWN = "DownBlock2D", "AttnDownBlock2D"
UP, ATTN_UP = "UpBlock2D", "AttnUpBlock2D"
MID = "UNetMidBlock2D"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNet2DConfig:
    """The fields of an unconditional UNet's config.json that shape it; diffusers' defaults.

    Raises UserError if fields do not fit each other.
    """

    sample_size: int | tuple[int, ...] | None = None  # pixels; a default size, any will do
    in_channels: Width = 3
    out_channels: Width = 3
    freq_shift: float = 0.0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = (DOWN, ATTN_DOWN, ATTN_DOWN, ATTN_DOWN)
    mid_block_type: str | None = MID  # null: none
    up_block_types: tuple[str, ...] = (ATTN_UP, ATTN_UP, ATTN_UP, UP)
    block_out_channels: Annotated[tuple[Width, ...], BLOCKS] = (224, 448, 672, 896)
    layers_per_block: Depth = 2
    mid_block_scale_factor: float = 1.0
    downsample_padding: Annotated[int, pydantic.Field(ge=0, le=8)] = 1
    dropout: float = 0.0  # only in training
    act_fn: str = "silu"
    attention_head_dim: int | None = 8  # of one head, unlike the other UNet's; null: one head
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    time_embedding_dim: Annotated[int, pydantic.Field(ge=0, le=2**20)] | None = None

    @classmethod
    def from_json(cls, raw: JsonObject, where: str = "unet/config.json") -> "UNet2DConfig":
        """Reads diffusers' config. Raises UserError that names every field not supported."""
        choices = {
            "down_block_types": (DOWN, ATTN_DOWN),
            "up_block_types": (UP, ATTN_UP),
            "act_fn": ("silu",),
        }
        raw = diffusers_spelling(raw)
        if raw.get("mid_block_type") is not None or "mid_block_type" not in raw:
            raw["mid_block_type"] = MID  # diffusers builds this one whatever the name
        if raw.get("attn_norm_num_groups") == raw.get("norm_num_groups", cls.norm_num_groups):
            raw["attn_norm_num_groups"] = None  # which means the same
        for name, kind in (("down", ATTN_DOWN), ("up", ATTN_UP)):
            kinds = raw.get(f"{name}_block_types")
            if isinstance(kinds, list) and kind not in kinds[:-1]:  # no other block reads it
                raw.pop(f"{name}sample_type", None)
        return read_config(cls, raw, UNSUPPORTED, where, choices=choices, alike=ALIKE)

    @property
    def layers(self) -> tuple[int, ...]:
        """The number of ResBlocks of each down block; up blocks have one more."""
        return (self.layers_per_block,) * len(self.block_out_channels)

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads of each down block."""
        return tuple(c // (self.attention_head_dim or c) for c in self.block_out_channels)

    @property
    def time_width(self) -> int:
        """The width of the timestep's embedding inside the blocks."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    def __post_init__(self) -> None:
        problems = block_problems(self)
        for channels in self._attending():
            if channels % (self.attention_head_dim or channels):
                problems.append(
                    f"attention_head_dim {self.attention_head_dim} does not divide a block's "
                    f"{channels} channels"
                )
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}: should be at least 0 and below 1")
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))

    def _attending(self) -> list[int]:
        """Returns the channels of layers with attention: the middle, and blocks of that kind."""
        down = zip(self.block_out_channels, self.down_block_types, strict=False)
        up = zip(self.block_out_channels[::-1], self.up_block_types, strict=False)
        within = [c for c, kind in [*down, *up] if kind in (ATTN_DOWN, ATTN_UP)]
        return [self.block_out_channels[-1], *within]


# What diffusers' class reads besides, with its defaults (`UNet2DModel.__init__`, 0.42.1). Of these,
# `num_train_timesteps` has a meaning for a learned embedding of the timestep alone.
UNSUPPORTED: JsonObject = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
ALIKE: dict[str, Callable[[object], bool]] = {
    "downsample_type": lambda v: not v,
    "upsample_type": lambda v: not v,
    "add_attention": bool,
    "class_embed_type": lambda v: v not in ("timestep", "identity"),
}
