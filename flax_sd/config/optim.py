"""The optimizer and its learning rate."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from flax_sd.config.section import (
    TRAINING,
    Count,
    Rate,
    Section,
    Unset,
    checked_patterns,
    pairs,
    refuse_idle,
)

# At most what float32 still tells from 1, so that no bias correction 1 - βᵗ is 0.
Beta = Annotated[float, Field(ge=0, le=0.999999)]
MIN_EPSILON = 1e-18  # below it the square of a gradient of that size is 0 in float32
BETAS: dict[str, tuple[float, float]] = {  # each method's own
    "adamw": (0.9, 0.999),
    "adamw8bit": (0.9, 0.999),
    "lion": (0.9, 0.99),
    "sgd": (0.9, 0.0),
    "muon": (0.95, 0.999),
    "schedule_free": (0.9, 0.999),
    "prodigy": (0.9, 0.999),
    "dadapt": (0.9, 0.999),
}
SELF_RATED = ("prodigy", "dadapt")
MIN_USUAL_RATE = 0.1  # of these: below it, sd-scripts warns that a usual learning rate was left


class OptimConfig(Section):
    """The optimizer and its learning rate."""

    method: Annotated[
        Literal[
            "adamw",
            "adamw8bit",
            "lion",
            "adafactor",
            "sgd",
            "muon",
            "prodigy",
            "dadapt",
            "schedule_free",
        ],
        TRAINING,
    ] = "adamw"
    """Optimizer. adamw8bit keeps its means in a quarter of the memory; lion needs a third to a
    tenth of adamw's learning rate; prodigy and dadapt find the rate and need 1.0; schedule_free
    averages its weights instead of lowering the rate."""
    learning_rate: Annotated[Rate, TRAINING] = 1e-4
    """Learning rate after the warm-up."""
    text_encoder_learning_rate: Annotated[Rate | None, Unset(lambda own: own.learning_rate)] = None
    """Learning rate of the text encoder, or of SDXL's two; unset means learning_rate."""
    text_encoder_2_learning_rate: Annotated[
        Rate | None, Unset(lambda own: own.meant("text_encoder_learning_rate"))
    ] = None
    """Learning rate of SDXL's second text encoder; unset means text_encoder_learning_rate."""
    lora_plus: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Factor of the learning rate for the up matrices of a LoRA (Hayou et al. 2024; 16 is
    usual)."""
    rates: Annotated[dict[str, Rate], pairs("PATTERN=FACTOR")] = {}
    """Factors of the learning rate by a regular expression found in a parameter's dotted path, as
    {unet.up_blocks: 0.5}; the first match counts, and 0 freezes the parameter."""
    beta1: Annotated[Beta | None, Unset(lambda own: BETAS.get(own.method, (0.0, 0.0))[0])] = None
    """Decay of the gradient's mean; unset is the method's own (adamw: 0.9). schedule_free needs
    more than 0."""
    beta2: Annotated[Beta | None, Unset(lambda own: BETAS.get(own.method, (0.0, 0.0))[1])] = None
    """Decay of the squared gradient's mean; unset is the method's own (adamw: 0.999)."""
    epsilon: Annotated[float, Field(ge=MIN_EPSILON, allow_inf_nan=False)] = 1e-8
    """Added to the root of the squared gradient's mean."""
    weight_decay: Rate = 0.01
    """Decoupled weight decay, times the learning rate a step."""
    text_encoder_weight_decay: Annotated[Rate | None, Unset(lambda own: own.weight_decay)] = None
    """Weight decay of the text encoders; unset means weight_decay."""
    max_grad_norm: Rate = 1.0
    """Largest global norm of the gradient; 0 does not limit it."""
    schedule: Annotated[
        Literal[
            "constant",
            "constant_with_warmup",
            "constant_with_decay",
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "rex",
        ],
        TRAINING,
    ] = "constant"
    """Learning rate schedule. As in diffusers' get_scheduler; constant_with_decay falls at the end,
    and rex (Chen et al. 2021) late."""
    warmup_steps: Count = 0
    """Number of linear warm-up steps; constant has none."""
    decay_steps: Count | None = None
    """Number of last steps of constant_with_decay, in which it falls to 0 (unset: a tenth of
    all)."""
    cycles: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
        Unset(lambda own: {"cosine": 0.5, "cosine_with_restarts": 1.0}.get(own.schedule)),
    ] = None
    """Waves of cosine (unset: 0.5) or restarts of cosine_with_restarts (unset: 1)."""
    power: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Exponent of polynomial."""

    @pydantic.field_validator("rates")
    @classmethod
    def _patterns(cls, value: dict[str, float]) -> dict[str, float]:
        return checked_patterns(value)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "OptimConfig":
        method, self_rated = self.method, self.method in SELF_RATED
        meaning = {
            "beta1": method != "adafactor",
            "beta2": method not in ("adafactor", "sgd"),
            "epsilon": method not in ("adafactor", "sgd", "lion"),
            "text_encoder_weight_decay": not self_rated,
            "decay_steps": self.schedule == "constant_with_decay",
            "warmup_steps": self.schedule != "constant",
            "cycles": self.schedule in ("cosine", "cosine_with_restarts"),
            "power": self.schedule == "polynomial",
        }
        refuse_idle(self, meaning)
        if self_rated and self.learning_rate < MIN_USUAL_RATE:
            raise ValueError(
                f"learning_rate {self.learning_rate:g}: {method} finds the rate itself, and this "
                "is what it is multiplied by: 1.0 is usual"
            )
        if method == "schedule_free" and self.schedule not in ("constant", "constant_with_warmup"):
            raise ValueError(
                f"schedule {self.schedule}: schedule_free needs constant or constant_with_warmup"
            )
        if method == "schedule_free" and self.beta1 == 0:
            raise ValueError(
                "beta1 0: schedule_free divides by it, to find its average again from the weights "
                "that it trains; 0.9 is usual"
            )
        return self
