"""What a run leaves behind, and the devices that it runs on."""

from typing import Annotated

import pydantic
from pydantic import Field

from flax_sd.config.modes import CAPTIONS, DENOISING, PROMPTS, UNCONDITIONAL
from flax_sd.config.section import OnResume, Positive, Rate, Section, Whole, refuse_idle


class CheckpointConfig(Section):
    """Saving, so that the same command goes on."""

    every: Positive = 500
    """Steps between two saves."""
    every_epochs: Positive | None = None  # of few pictures an epoch is short
    """Passes over the pictures between two saves, beside those of every; unset adds none."""
    keep: Positive = 3
    """How many of the newest checkpoints to keep."""


class SampleConfig(Section):
    """Pictures drawn during and after the run."""

    every: Annotated[Positive | None, DENOISING] = None
    """Steps between two grids of samples."""
    every_epochs: Annotated[Positive | None, DENOISING] = None
    """Passes over the pictures between two grids, beside those of every; where both are unset, none
    are drawn between the first and the last step."""
    prompts: Annotated[tuple[str, ...], PROMPTS] = ()
    """Captions to draw; with them, the run ends with a before/after sheet. With every or
    every_epochs alone, captions of the data."""
    at_first: bool = True  # the sheet has nothing to compare with otherwise
    """Draw them before the first step too; off, there is no before/after sheet."""
    count: Annotated[Positive, UNCONDITIONAL] = 16
    """Pictures of a grid in mode ddpm, which has no prompts; every and every_epochs draw them."""
    steps: Positive = 25
    """Denoising steps of a sample."""
    guidance_scale: Annotated[Rate, CAPTIONS] = 7.5
    """Classifier-free guidance; 1 and below turn it off."""
    sampler: str | None = None
    """ddpm, ddim, pndm, euler or euler_a; unset takes the checkpoint's own."""
    seed: Annotated[Whole, Field(ge=-1, lt=2**63)] = 0
    """Seed of the first prompt's picture, and the next prompts count up; -1 draws one."""

    @property
    def wanted(self) -> bool:
        """Whether any pictures are drawn."""
        return bool(self.prompts) or any((self.every, self.every_epochs))

    @pydantic.model_validator(mode="after")
    def _no_idle_options(self) -> "SampleConfig":
        refuse_idle(self, {"at_first": self.wanted})
        return self


class MeshConfig(Section):
    """The devices' mesh."""

    data: Annotated[Whole, Field(ge=-1), OnResume("devices")] = -1
    """Copies of the model that divide the batch; -1 takes all devices left by fsdp."""
    fsdp: Positive = 1
    """Devices that share one copy of the frozen weights."""


class LogConfig(Section):
    """What is written down."""

    every: Positive = 10
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard files too (extra: tensorboard)."""
    wandb: bool = False
    """Log to Weights & Biases too (extra: wandb; WANDB_MODE=offline works)."""
