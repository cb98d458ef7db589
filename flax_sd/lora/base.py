"""The frozen weights under a LoRA, held in fewer bits while it is trained."""

from flax import nnx

from flax_sd.lora.layers import LoRA
from flax_sd.lora.targets import slots
from flax_sd.models.int8 import in_int8


def hold_in_int8(model: nnx.Module) -> None:
    """Holds the kernel of every linear and convolution in 8 bits, with a LoRA around it or not."""
    for slot in slots(model).values():
        if isinstance(slot.layer, LoRA):
            slot.layer.base = in_int8(slot.base)
        else:
            setattr(slot.parent, slot.name, in_int8(slot.base))
