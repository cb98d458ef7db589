"""What is trained and how: the loop, the adapters, the optimizer, the losses."""

from typing import Annotated, Literal

from pydantic import Field

from flax_sd.config.section import Count, Positive, Rate, Section


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
    targets: str = "attention"
    """attention, attention+ff, all-linear, conv, or a regular expression over module paths."""
    init: Literal["gaussian", "kaiming"] = "gaussian"  # the reference script's
    """How the down matrices start; the up matrices start at zero."""


class OptimConfig(Section):
    """AdamW and its learning rate."""

    learning_rate: Rate = 1e-4
    """Learning rate after the warm-up."""
    text_encoder_learning_rate: Rate | None = None
    """The text encoder's own; unset means learning_rate."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the gradient's mean."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the squared gradient's mean."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the squared gradient's mean."""
    weight_decay: Rate = 0.01
    """Decoupled weight decay, times the learning rate a step."""
    text_encoder_weight_decay: Rate | None = None
    """The text encoder's own; unset means weight_decay."""
    max_grad_norm: Rate = 1.0
    """Largest global norm of the gradient; 0 leaves it alone."""
    schedule: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
    ] = "constant"
    """Course of the learning rate, as in diffusers' get_scheduler."""
    warmup_steps: Count = 0
    """Steps of linear warm-up; constant has none."""
    cycles: Annotated[float, Field(gt=0)] | None = None
    """Waves of cosine (unset: 0.5) or restarts of cosine_with_restarts (unset: 1)."""
    power: Annotated[float, Field(gt=0)] = 1.0
    """Exponent of polynomial."""


class VAELossConfig(Section):
    """The loss of mode vae."""

    kl_weight: Rate = 1e-6  # Rombach et al. 2022, §G
    """Weight of the KL term, in nats a latent, beside the reconstruction's mean error."""
    l1_weight: Rate = 0.5
    """Share of |error| in the reconstruction error; the rest is its square."""
