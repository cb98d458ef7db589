"""What is trained and how: the loop, the adapters, the autoencoder's loss."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from flax_sd.config.section import Count, Positive, Rate, Section, checked_patterns


class TrainConfig(Section):
    """The training loop."""

    mode: Literal["lora", "full", "vae"] = "lora"
    """lora: adapters on a frozen model; full: the UNet itself; vae: the autoencoder."""
    steps: Positive = 1000
    """Optimizer steps of the run."""
    epochs: Positive | None = None
    """Passes over the pictures; the smaller of steps and epochs ends the run."""
    batch_size: Positive = 1
    """Pictures a step, over all devices and accumulated parts."""
    accumulate: Positive = 1
    """Parts that a batch is divided into, one after another, to save memory."""
    text_encoder: bool = False
    """Train the text encoder too (its LoRA, or all of it in mode full)."""
    remat: Literal["none", "blocks", "full"] = "none"
    """Recompute activations in the backward pass, block by block or in full within each block
    too: less memory, more time."""
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of captions replaced by the empty one, which teaches guidance from scratch."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep a running mean of what is trained, with this decay a step (0.999 for thousands of
    steps), and use it for samples, held-out loss and results; it takes as much memory as what is
    trained. Unset keeps none."""
    deterministic: bool = True
    """On a GPU, only operations that give the same bytes each time."""


class LoRAConfig(Section):
    """The adapters of mode lora."""

    rank: Positive = 4  # the reference script's
    """Rank of the update matrices."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Strength: the update is scaled by alpha / rank; unset means alpha = rank."""
    rslora: bool = False
    """Scale by alpha / √rank instead, which keeps large ranks from learning slowly (Kalajdzievski
    2023)."""
    ranks: dict[str, Count] = {}
    """Ranks of layers whose dotted path a regular expression is found in, as {unet.mid_block: 16};
    the first that is found counts, and 0 leaves a layer without. With alpha unset, each is scaled
    by its own rank."""
    targets: str = "attention"
    """attention, attention+ff, all-linear, conv, or a regular expression over module paths."""
    init: Literal["gaussian", "kaiming"] = "gaussian"  # the reference script's
    """How the down matrices start; the up matrices start at zero."""

    @pydantic.field_validator("ranks")
    @classmethod
    def _patterns(cls, value: dict[str, int]) -> dict[str, int]:
        return checked_patterns(value)


class VAELossConfig(Section):
    """The loss of mode vae."""

    kl_weight: Rate = 1e-6  # Rombach et al. 2022, §G
    """Weight of the KL term, in nats a latent, beside the reconstruction's mean error."""
    l1_weight: Rate = 0.5
    """Share of |error| in the reconstruction error; the rest is its square."""
