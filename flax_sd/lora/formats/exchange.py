"""The LoRA files that other tools exchange."""

from flax_sd.lora.formats.read import read
from flax_sd.lora.formats.write import kohya_metadata, write_kohya, write_peft

__all__ = ["kohya_metadata", "read", "write_kohya", "write_peft"]
