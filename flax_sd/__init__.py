"""Fine-tune Stable Diffusion with LoRA in JAX/Flax."""
