"""ComfyUI's own names, which its node that saves a LoRA writes: the model's keys there.

Such as `diffusion_model.input_blocks.4.1.proj_in.lora_up.weight`, the "generic lora format" of
`comfy/lora.py` @17358c8f. Inside of the text encoders it has transformers' names.
"""

from flax_sd.lora.formats.format import Format, LayerRef

UNET = "diffusion_model."  # before the UNet's layers under their original (LDM) names
_PREFIXES = {
    "text_encoder": ("text_encoders.clip_l.transformer.", "text_encoders.clip_h.transformer."),
    "text_encoder_2": ("text_encoders.clip_g.transformer.",),
}


def names(layer: LayerRef) -> list[str]:
    """Returns the names of a text encoder's layer."""
    return [prefix + layer.path for prefix in _PREFIXES.get(layer.component, ())]


def original_names(path: str) -> list[str]:
    """Returns the names of the UNet's layer with this original path."""
    return [UNET + path]


FORMAT = Format(
    {r"(diffusion_model|text_encoders)\.": "ComfyUI's names"},
    {},  # it has the ends of all others
    names,
    original_names,
)
