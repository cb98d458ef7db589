"""LoRA files: a module for each format, and one reader for all of them (`contents`)."""

from flax_sd.lora.formats import comfyui, kohya, peft

FORMATS = (comfyui.FORMAT, kohya.FORMAT, peft.FORMAT)
