"""The UNet's config.json: the fields of Stable Diffusion 1.x, 2.x and XL, and those refused."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import pydantic

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models.config_json import BLOCKS, Depth, Width, diffusers_spelling, read_config

DOWN, CROSS_ATTN_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_ATTN_UP = "UpBlock2D", "CrossAttnUpBlock2D"
MID_CROSS_ATTN, MID = "UNetMidBlock2DCrossAttn", "UNetMidBlock2D"
TEXT_TIME = "text_time"  # SDXL's pooled text and sizes
# Transformer layers: of all blocks, of each block, or of each layer of a block.
LayerCount = Annotated[int, pydantic.Field(ge=0, le=100)]
Depths = LayerCount | tuple[LayerCount | tuple[LayerCount, ...], ...]

ADDED = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")  # read in SDXL alone
PER_BLOCK = (  # fields that have one entry a block, or one for all
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "attention_head_dim",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The fields of a `unet/config.json` that shape the network; diffusers' defaults.

    Raises UserError if fields do not fit each other.
    """

    sample_size: int | tuple[int, ...] | None = None  # latents; a default size, any will do
    in_channels: Width = 4
    out_channels: Width = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    down_block_types: tuple[str, ...] = (CROSS_ATTN_DOWN, CROSS_ATTN_DOWN, CROSS_ATTN_DOWN, DOWN)
    mid_block_type: str | None = MID_CROSS_ATTN  # null: none
    up_block_types: tuple[str, ...] = (UP, CROSS_ATTN_UP, CROSS_ATTN_UP, CROSS_ATTN_UP)
    block_out_channels: Annotated[tuple[Width, ...], BLOCKS] = (320, 640, 1280, 1280)
    layers_per_block: Depth | tuple[Depth, ...] = 2
    downsample_padding: Annotated[int, pydantic.Field(ge=0, le=8)] = 1
    mid_block_scale_factor: float = 1.0
    dropout: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0  # in training; not done here
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: Width = 1280
    attention_head_dim: int | tuple[int, ...] = 8  # a misnomer: the number of heads
    use_linear_projection: bool = False
    transformer_layers_per_block: Depths = 1
    reverse_transformer_layers_per_block: Depths | None = None  # of the up blocks; null: as down
    addition_embed_type: str | None = None
    addition_time_embed_dim: Width | None = None  # of each number's sinusoids
    projection_class_embeddings_input_dim: Width | None = None  # of the pooled text and all of them
    time_embedding_dim: Annotated[int, pydantic.Field(ge=0, le=2**20)] | None = None

    @classmethod
    def from_json(cls, raw: JsonObject, where: str = "unet/config.json") -> "UNetConfig":
        """Reads diffusers' config. Raises UserError that names every field not supported."""
        choices = {
            "down_block_types": (DOWN, CROSS_ATTN_DOWN),
            "mid_block_type": (MID_CROSS_ATTN, MID),
            "up_block_types": (UP, CROSS_ATTN_UP),
            "act_fn": ("silu",),
            "addition_embed_type": (TEXT_TIME,),
        }
        raw = _one_for_all(diffusers_spelling(raw))
        return read_config(cls, raw, UNSUPPORTED, where, choices=choices, alike=ALIKE)

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads of each down block."""
        return self._per_block(self.attention_head_dim)

    @property
    def layers(self) -> tuple[int, ...]:
        """The number of ResBlocks of each down block; up blocks have one more."""
        return self._per_block(self.layers_per_block)

    @property
    def down_depths(self) -> tuple[tuple[int, ...], ...]:
        """The number of transformer layers after each ResBlock of each down block."""
        return _depths(self.transformer_layers_per_block, self.layers)

    @property
    def up_depths(self) -> tuple[tuple[int, ...], ...]:
        """The same of each up block."""
        own, down = self.reverse_transformer_layers_per_block, self.transformer_layers_per_block
        reverse = own if own is not None else down if isinstance(down, int) else down[::-1]
        return _depths(reverse, [count + 1 for count in self.layers[::-1]])

    @property
    def added_width(self) -> int:
        """The width of what `add_embedding` reads."""
        assert self.projection_class_embeddings_input_dim is not None
        return self.projection_class_embeddings_input_dim

    @property
    def time_id_width(self) -> int:
        """The width of the sinusoids of one of its numbers."""
        assert self.addition_time_embed_dim is not None
        return self.addition_time_embed_dim

    def told(self, pooled_width: int) -> int | None:
        """Returns how many numbers are read beside pooled text: 6 in SDXL, 5 in its refiner.

        None where the widths leave no whole number, 0 in other families.
        """
        if self.addition_embed_type is None:
            return 0
        numbers, rest = divmod(self.added_width - pooled_width, self.time_id_width)
        return None if rest else numbers

    @property
    def time_width(self) -> int:
        """The width of the timestep's embedding inside the blocks."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def attends(self) -> tuple[bool, ...]:
        """Per down block, whether a transformer has its channels: there, in its twin, or mid."""
        return attends(self.down_block_types, self.up_block_types)

    def _per_block(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)

    def __post_init__(self) -> None:
        problems = [*self._lengths(), *self._added()]
        for channels in self.block_out_channels:
            if self.norm_num_groups < 1 or channels % self.norm_num_groups:
                problems.append(
                    f"norm_num_groups {self.norm_num_groups} does not divide a block's {channels} "
                    "channels"
                )
        for channels, n, used in zip(
            self.block_out_channels, self.heads, self.attends, strict=False
        ):
            if used and (n < 1 or channels % n):
                problems.append(
                    f"attention_head_dim (number of heads) {n} does not divide a block's "
                    f"{channels} channels"
                )
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))

    def _lengths(self) -> Iterator[str]:
        """Yields what is wrong with the number of entries, one a block or one a layer."""
        blocks = len(self.block_out_channels)
        for name in PER_BLOCK:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != blocks:
                found = f"{name} has {len(value)} entries"
                yield f"{found}: block_out_channels has {blocks}, one a block"
        down, up = self.transformer_layers_per_block, self.reverse_transformer_layers_per_block
        if up is None and isinstance(down, tuple) and any(isinstance(d, tuple) for d in down):
            yield (
                "transformer_layers_per_block has a list for a block: "
                "reverse_transformer_layers_per_block should say the up blocks' layers"
            )
        for name, value, more in zip(PER_BLOCK[-2:], (down, up), (0, 1), strict=True):
            layers = self.layers if not more else self.layers[::-1]
            for own, count in zip(value if isinstance(value, tuple) else (), layers, strict=False):
                if isinstance(own, tuple) and len(own) != count + more:
                    yield f"{name} has {len(own)} entries for a block of {count + more} layers"

    def _added(self) -> Iterator[str]:
        """Yields what is missing where pooled text and sizes are read."""
        if self.addition_embed_type is not None:
            for name in ADDED:
                if getattr(self, name) is None:
                    yield f"{name} is missing: addition_embed_type {TEXT_TIME} needs it"


def _depths(value: Depths, layers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Returns the number of transformer layers after each ResBlock of each block."""
    values = value if isinstance(value, tuple) else (value,) * len(layers)
    return tuple(
        own if isinstance(own, tuple) else (own,) * count
        for own, count in zip(values, layers, strict=True)
    )


def attends(down: Sequence[Any], up: Sequence[Any]) -> tuple[bool, ...]:
    """Returns per down block whether a transformer has its channels; the middle has the last's."""
    last = len(down) - 1
    pairs = zip(down, up[::-1], strict=False)
    return tuple(
        CROSS_ATTN_DOWN in p or CROSS_ATTN_UP in p or i == last for i, p in enumerate(pairs)
    )


def _one_for_all(raw: JsonObject) -> JsonObject:
    """Returns the config with one number for a list of equal ones, and without what is not read.

    For the number of layers and heads a list may have different ones.
    """
    if raw.get("addition_embed_type") is None:
        raw = {name: value for name, value in raw.items() if name not in ADDED}
    down, up = (raw.get(f"{way}_block_types") for way in ("down", "up"))
    down = UNetConfig.down_block_types if down is None else down
    up = UNetConfig.up_block_types if up is None else up
    if not (isinstance(down, list | tuple) and isinstance(up, list | tuple)):
        return raw
    which, new = attends(down, up), dict(raw)
    for name in ("cross_attention_dim", "only_cross_attention"):
        values = raw.get(name)
        if isinstance(values, list) and len(values) == len(which):
            used = [value for value, attending in zip(values, which, strict=True) if attending]
            if all(value == used[0] for value in used):
                new[name] = used[0]
    return new


# What diffusers' class reads besides, with its defaults (`UNet2DConditionModel.__init__`, 0.42.1),
# but for what it reads in networks that are refused by another field.
UNSUPPORTED: JsonObject = {
    "center_input_sample": False,
    "only_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
}
_CLASS_EMBEDDINGS = ("timestep", "identity", "projection", "simple_projection")
ALIKE: dict[str, Callable[[object], bool]] = {
    "class_embed_type": lambda v: v not in _CLASS_EMBEDDINGS,
    "attention_type": lambda v: v not in ("gated", "gated-text-image"),
}
