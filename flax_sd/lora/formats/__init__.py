"""LoRA files: a module for each format, and one reader for all of them (`contents`)."""

from flax_sd.lora.formats import kohya, peft

FORMATS = (kohya.FORMAT, peft.FORMAT)
