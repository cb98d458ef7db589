"""What a run leaves behind, and the devices that it runs on."""

from typing import Annotated

import pydantic
from pydantic import Field

from flax_sd.config.modes import CAPTIONS, DENOISING, PROMPTS, UNCONDITIONAL
from flax_sd.config.section import (
    OUTPUT,
    OnResume,
    Positive,
    Rate,
    Section,
    Whole,
    refuse_idle,
)


class CheckpointConfig(Section):
    """Checkpoints, from which the same command resumes."""

    every: Annotated[Positive, OUTPUT] = 500
    """Steps between checkpoints."""
    every_epochs: Positive | None = None  # of few images an epoch is short
    """Epochs between further checkpoints, in addition to every; unset adds none."""
    keep: Positive = 3
    """Number of newest checkpoints to keep."""


class SampleConfig(Section):
    """Images generated during and after the run."""

    every: Annotated[Positive | None, DENOISING, OUTPUT] = None
    """Steps between grids of samples."""
    every_epochs: Annotated[Positive | None, DENOISING] = None
    """Epochs between further grids, in addition to every; if both are unset, there are none between
    the first and the last step."""
    prompts: Annotated[tuple[str, ...], PROMPTS, OUTPUT] = ()
    """Prompts of the samples, and of the sheet before/after. With every or every_epochs alone,
    captions of the data."""
    at_first: bool = True  # the sheet has nothing to compare with otherwise
    """Generate samples before the first step too; off, there is no before/after sheet."""
    count: Annotated[Positive, UNCONDITIONAL] = 16
    """Number of images of a grid in mode ddpm, which has no prompts; set every or every_epochs to
    generate them."""
    steps: Positive = 25
    """Denoising steps of a sample."""
    guidance_scale: Annotated[Rate, CAPTIONS] = 7.5
    """Classifier-free guidance; 1 and below turn it off."""
    sampler: str | None = None
    """A name such as euler_a or dpmpp_2m_karras; unset takes the checkpoint's own."""
    seed: Annotated[Whole, Field(ge=-1, lt=2**63)] = 0
    """Seed of the first prompt's image, and the next prompts count up; -1 draws one."""

    @property
    def wanted(self) -> bool:
        """True if any images are generated."""
        return bool(self.prompts) or any((self.every, self.every_epochs))

    @pydantic.model_validator(mode="after")
    def _no_idle_options(self) -> "SampleConfig":
        refuse_idle(self, {"at_first": self.wanted})
        return self


class MeshConfig(Section):
    """The devices' mesh."""

    data: Annotated[Whole, Field(ge=-1), OnResume("devices")] = -1
    """Number of copies of the model that divide the batch; -1 takes all devices left by fsdp."""
    fsdp: Positive = 1
    """Number of devices that share one copy of the frozen weights."""


class LogConfig(Section):
    """The logs of a run."""

    every: Positive = 10
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard files too. Extra: tensorboard."""
    wandb: Annotated[bool, OUTPUT] = False
    """Log to Weights & Biases too. Extra: wandb; WANDB_MODE=offline works."""
