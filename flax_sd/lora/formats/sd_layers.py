"""The layers that a Stable Diffusion's networks have, for LoRA files that come without a model."""

import functools
import re
from collections.abc import Mapping

from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.formats.keys import name_table
from flax_sd.lora.formats.ldm_names import PUBLIC
from flax_sd.lora.targets import PRESETS

# More of everything than SD 1, SD 2 and SDXL have: block i, layer j, transformer d, text layer n.
_BLOCKS, _LAYERS, _DEPTH, _TEXT_LAYERS = 4, 3, 10, 32
_KINDS = {  # the first whose pattern a path matches
    "attention": PRESETS["attention"][0],
    "feed-forward": PRESETS["attention+ff"][0],
    "proj_in/out": r".*\.proj_(?:in|out)",
    "time embedding": r"(?:.*\.)?time_emb.*",
    "size and crop": r"add_embedding\..*",
    "text projection": r"text_projection",
    "convolution": r".*",
}


def kind(path: str) -> str:
    """Returns the kind of a layer: attention, feed-forward, …"""
    return next(name for name, pattern in _KINDS.items() if re.fullmatch(pattern, path))


@functools.cache
def names(*, original: bool = True) -> Mapping[str, LayerRef]:
    """Returns every name that a file may have for a layer of a Stable Diffusion.

    Args:
      original: with the original (LDM) names of the public models' UNets.
    """
    inside = [*(f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2"]
    numbers = range(_TEXT_LAYERS)
    text = [f"text_model.encoder.layers.{n}.{layer}" for n in numbers for layer in inside]
    layers = {
        "unet": _unet(),
        "text_encoder": text,
        "text_encoder_2": [*text, "text_projection"],
    }
    refs = (LayerRef(name, path) for name, paths in layers.items() for path in paths)
    return name_table(refs, PUBLIC if original else ())


def _unet() -> list[str]:
    embeddings = [f"{name}_embedding.linear_{i}" for name in ("time", "add") for i in (1, 2)]
    paths = ["conv_in", "conv_out", *embeddings]
    blocks = [f"{way}_blocks.{i}" for way in ("down", "up") for i in range(_BLOCKS)]
    for block in (*blocks, "mid_block"):
        residual = ("conv1", "conv2", "time_emb_proj", "conv_shortcut")
        for j in range(_LAYERS):
            paths += [f"{block}.resnets.{j}.{layer}" for layer in residual]
            paths += [f"{block}.attentions.{j}.{layer}" for layer in _transformer()]
        if block != "mid_block":
            paths.append(f"{block}.{block.split('_')[0]}samplers.0.conv")
    return paths


def _transformer() -> list[str]:
    projections = ("to_q", "to_k", "to_v", "to_out.0")
    inside = [f"{attention}.{p}" for attention in ("attn1", "attn2") for p in projections]
    inside += ["ff.net.0.proj", "ff.net.2"]
    blocks = [f"transformer_blocks.{d}.{layer}" for d in range(_DEPTH) for layer in inside]
    return ["proj_in", "proj_out", *blocks]
