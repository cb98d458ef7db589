"""The model that a run starts from."""

from typing import Annotated, Literal

from flax_sd.config.modes import ADAPTERS, CAPTIONS, DENOISING, PROMPTS
from flax_sd.config.section import MAY_DIFFER, MODEL, SAME_MODEL, Count, Section, Source


class ModelConfig(Section):
    """The model that the run starts from."""

    path: Annotated[Source, SAME_MODEL, MODEL] = "bundled:base"
    """A folder, a .safetensors file, a hub id or bundled:base. The folder is one of diffusers, the
    file a whole checkpoint. bundled:ddpm32 only has sizes, for from_scratch in mode ddpm."""
    revision: Annotated[str | None, SAME_MODEL] = None
    """Branch, tag or commit of a hub id."""
    variant: Annotated[str | None, SAME_MODEL] = None
    """Variant of the weight files, as fp16 in diffusion_pytorch_model.fp16.safetensors."""
    vae: Annotated[Source | None, SAME_MODEL, CAPTIONS] = None
    """Another VAE, an AutoencoderKL or AutoencoderTiny: its folder, .safetensors file or hub id."""
    base_dtype: Annotated[Literal["compute", "int8"], ADAPTERS] = "compute"
    """Dtype of a LoRA's frozen base model: compute_dtype, or int8 for the kernels of all linears
    and convolutions, which takes a quarter to a half of the memory."""
    clip_skip: Annotated[Count, PROMPTS] = 0
    """Number of the last layers of each text encoder to skip; of SDXL's, beyond the one that it was
    trained without."""
    prediction_type: Annotated[Literal["epsilon", "v_prediction"] | None, DENOISING] = None
    """Prediction type of the UNet, if other than in the model's scheduler config."""
    check_prediction: Annotated[bool, PROMPTS, MAY_DIFFER] = True
    """Before the first step, refuse a model that predicts another type than its config, or
    prediction_type, says; false lets a model learn another type."""
    zero_snr: Annotated[bool, DENOISING] = False
    """End the noise schedule in pure noise (Lin et al. 2023), from which a model learns all dark
    and all bright images; it needs v_prediction, and samples of it the same two options."""
    from_scratch: tuple[Literal["unet", "vae", "text_encoder", "text_encoder_2"], ...] = ()
    """Components that start from random weights; their config.json in `path` gives the sizes."""
