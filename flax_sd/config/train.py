"""The training loop, and the loss of the autoencoder."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from flax_sd.config.modes import DENOISING, PROMPTS, TEXT_ENCODER, ModeName
from flax_sd.config.section import MAY_DIFFER, TRAINING, Positive, Rate, Section, refuse_idle


class TrainConfig(Section):
    """The training loop."""

    mode: Annotated[ModeName, TRAINING] = "lora"
    """What is trained. lora: adapters on a frozen model; textual_inversion: the embeddings of
    tokens.names alone; full: the UNet itself; vae: the autoencoder; ddpm: a UNet that generates
    pixels from noise alone, without a VAE or captions (Ho et al. 2020)."""
    steps: Annotated[Positive, MAY_DIFFER, TRAINING] = 1000
    """Optimizer steps of the run."""
    epochs: Annotated[Positive | None, MAY_DIFFER, TRAINING] = None
    """Passes over the images. The smaller of steps and epochs ends the run."""
    batch_size: Annotated[Positive, TRAINING] = 1
    """Images in a step, over all devices and micro-batches. Those of one micro-batch are in memory
    together: at 512 px each takes 1 to 2 GB with Stable Diffusion 1.5 in float32, and half of that
    with remat."""
    accumulate: Annotated[Positive, TRAINING] = 1
    """Micro-batches of a batch, one after another, to save memory."""
    text_encoder: Annotated[bool, TEXT_ENCODER, TRAINING] = False
    """Train the text encoder too, of SDXL the first. It is its LoRA, or all of it in mode full; it
    then stays in memory: 0.5 GB in float32. Layers that the UNet does not read are not trained."""
    text_encoder_2: Annotated[bool, TEXT_ENCODER, TRAINING] = False
    """Train SDXL's second text encoder too. It takes 2.8 GB in float32; the first is trained by
    text_encoder, and if either is trained, both stay in memory."""
    remat: Annotated[Literal["none", "blocks", "full"], DENOISING, TRAINING] = "none"
    """Recompute activations to save memory. It takes more time; in the backward pass, block by
    block, or in full within each block too."""
    caption_dropout: Annotated[float, Field(ge=0, le=1), PROMPTS] = 0.0
    """Probability that a caption is replaced by the empty one, which teaches guidance from
    scratch."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average (EMA) of the trained parameters. Its decay a step is 0.999
    for thousands of steps; the average is used for samples, held-out loss and results, and
    takes as much memory as they do. Unset keeps none."""
    deterministic: bool = True
    """On a GPU, use only operations that give the same bytes each time."""
    measure_scaling_factor: bool = False  # the UNet beside the VAE was trained with the old factor
    """In mode vae, write the scale of the latents, measured on the images, into the VAE's config;
    for a VAE that starts from scratch it is always measured."""
    # A NaN is seldom the last one.
    on_nonfinite: Annotated[Literal["stop", "skip"], MAY_DIFFER] = "stop"
    """At a step whose loss, gradient or update is not finite, which changes no weight: stop, or
    skip it, name its images and continue."""
    # A bad image comes alone; a run that diverges does not recover.
    max_skipped: Annotated[Positive, MAY_DIFFER] = 3
    """Number of consecutive steps that may be skipped; the last of them stops the run."""

    @pydantic.model_validator(mode="after")
    def _effective(self) -> "TrainConfig":
        meaning = {"max_skipped": self.on_nonfinite == "skip"}
        refuse_idle(self, meaning | {"measure_scaling_factor": self.mode == "vae"})
        return self


class VAELossConfig(Section):
    """The loss of mode vae."""

    kl_weight: Rate = 1e-6  # Rombach et al. 2022, §G
    """Weight of the KL term, in nats a latent, beside the mean reconstruction error."""
    l1_weight: Rate = 0.5
    """Share of the absolute error in the reconstruction error; the rest is the squared error."""
