"""The adapters of mode lora."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from flax_sd.config.modes import ADAPTERS
from flax_sd.config.section import (
    LORA,
    Count,
    OnResume,
    Positive,
    Section,
    Unset,
    UserPath,
    checked_patterns,
    pairs,
    refuse_idle,
)

Chance = Annotated[float, Field(ge=0, lt=1)]


class LoRAConfig(Section):
    """The adapters of mode lora."""

    start: Annotated[UserPath | None, OnResume("start_hash"), ADAPTERS] = None
    """A LoRA to continue training: its file, or a run's folder. It is of kohya, PEFT or diffusers.
    Layers, ranks and alphas are the file's; different options are an error. If the file
    has no alphas, they are those of the run in its folder, or lora.alpha."""
    rank: Annotated[Positive, LORA] = 4  # the reference script's
    """Rank of the update matrices. With AdamW each of their numbers takes 16 bytes, at rank 4 of
    attention 13 MB in all for Stable Diffusion 1.5 and 93 MB for SDXL."""
    alpha: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
        # With ranks or a file to start from, each layer has its own.
        Unset(lambda own: None if own.ranks or own.start else own.rank),
        LORA,
    ] = None
    """Strength: the update is scaled by alpha / rank; unset is the rank."""
    rslora: bool = False
    """Scale by alpha / √rank instead, which keeps large ranks from learning slowly (Kalajdzievski
    2023)."""
    ranks: Annotated[dict[str, Count], pairs("PATTERN=RANK")] = {}
    """Ranks of layers by a regular expression found in their dotted path, as {unet.mid_block: 16};
    the first match counts, and 0 leaves a layer without. With alpha unset, each is scaled by its
    own rank."""
    targets: Annotated[str, LORA] = "attention"
    """Layers: attention, attention+ff, sd-scripts, all-linear, conv or a pattern. sd-scripts is
    attention+ff and the projections around them, as that trainer without conv_dim; conv is every
    linear and convolution; a pattern is a regular expression over module paths."""
    init: Literal["gaussian", "kaiming"] = "gaussian"  # the reference script's
    """Initialisation of the down matrices; the up matrices start at zero."""

    dora: Annotated[bool, ADAPTERS] = False
    """Train the norms of each layer's outputs apart from their directions (Liu et al. 2024): closer
    to full training at small ranks, for more time and memory a step."""
    dropout: Annotated[Chance, ADAPTERS] = 0.0
    """Probability that a number between the two matrices is dropped, for each image and position;
    like sd-scripts' network_dropout, while peft's lora_dropout is of the layer's input."""
    rank_dropout: Annotated[Chance, ADAPTERS] = 0.0
    """Probability that a column of the pair is dropped, for each image and layer."""
    module_dropout: Annotated[Chance, ADAPTERS] = 0.0
    """Probability that the LoRA of a layer is dropped, for each image and layer."""
    max_norm: Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, ADAPTERS] = None
    """Largest norm of a layer's update alpha / rank · up @ down; after each step both matrices are
    scaled to it, like sd-scripts' scale_weight_norms (1 is usual). Unset does not limit it."""

    @pydantic.field_validator("ranks")
    @classmethod
    def _patterns(cls, value: dict[str, int]) -> dict[str, int]:
        return checked_patterns(value)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "LoRAConfig":
        fresh = self.start is None
        refuse_idle(self, {"init": fresh, "rslora": fresh, "ranks": fresh, "dora": fresh})
        return self
