"""Fine-tune Stable Diffusion with LoRA in JAX/Flax."""

from flax_sd import samplers
from flax_sd.pipeline import StableDiffusion

__all__ = ["StableDiffusion", "samplers"]
