"""Which keys of a LoRA file other programs load, and why not the others.

ComfyUI and A1111 are known by their sources: `comfy/lora.py` @17358c8f,
`extensions-builtin/Lora/networks.py` @873edba4 and `network.py` @f2844bd0.
"""

import collections
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from flax_sd.lora.formats import comfyui, kohya
from flax_sd.lora.formats.contents import LoRAContents
from flax_sd.lora.formats.diffusers_loader import not_loaded
from flax_sd.lora.formats.format import ATTENTION, LayerRef
from flax_sd.lora.formats.keys import split_key
from flax_sd.lora.formats.ldm_names import is_original
from flax_sd.weights.family import Family

_NO_LAYER = "no layer of a Stable Diffusion has such a name"
_WIDE = 4  # projections of an attention: queries, keys, values, output
_OPEN_CLIP = {"sd2": "text_encoder", "sdxl": "text_encoder_2"}  # one tensor an attention in A1111
_UNREAD_BY_A1111 = {  # family -> names of kohya's that it does not know there -> why
    "sd2": {r"lora_te1_": "the text encoder as te1: known of Stable Diffusion 1.x and SDXL alone"},
    "sdxl": {
        r"lora_te_": "the first text encoder as te: known as te1",
        r"lora_unet_(add_embedding|up_blocks_0_upsamplers)_": "diffusers' name of this layer: "
        "known under its original name",
    },
}
_SDXL = "sdxl_"  # how A1111 tells SDXL in a header's ss_base_model_version


class Support(NamedTuple):
    """The extent to which a program loads a file.

    Attributes:
      not_loaded: keys that it leaves out, each with the reason.
      remark: on what it loads.
    """

    not_loaded: Mapping[str, str]
    remark: str = ""


def support(contents: LoRAContents, family: Family | None) -> dict[str, Support]:
    """Returns, by the program's name, how much of the file each loads.

    Args:
      family: of the model that it is for; None if it is not known.
    """
    tensors = contents.tensors()
    unknown = dict.fromkeys(contents.unknown, _NO_LAYER)
    comfy = {key: why for key, part, ref in tensors if (why := _comfyui(key, part, ref))}
    a1111 = {key: why for key, part, ref in tensors if (why := _a1111(key, part, ref, family))}
    a1111 = dict(_incomplete_attention(contents, _OPEN_CLIP.get(family or ""))) | a1111
    remark = "of a DoRA it divides by ‖W‖, not ‖W + ΔW‖: other images" if contents.is_dora else ""
    return {
        "diffusers": Support(unknown | not_loaded(contents, family)),
        "ComfyUI": Support(unknown | comfy, remark),
        "A1111": Support(unknown | a1111, _hidden(contents, family)),
    }


def _comfyui(key: str, part: str, ref: LayerRef) -> str | None:
    name = (split_key(key) or ("",))[0]
    if part == "magnitude" and not key.endswith(".dora_scale"):
        return "DoRA magnitude of PEFT's name: not read"
    if part == "alpha" and key != f"{name}.alpha":
        return "alpha of an attention processor: not read"
    if is_original(name) or name.startswith(comfyui.UNET):
        return None
    if name in kohya.names(ref) or name in _comfyui_names(ref):
        return None
    if ref.component == "unet" and ATTENTION.match(ref.path):
        return "attention with dots in its names: read as `attn1.processor.to_q` alone"
    return "names with dots: not read in this spelling"


def _comfyui_names(ref: LayerRef) -> set[str]:
    """Returns the dotted names under which ComfyUI reads a layer, beside kohya's."""
    own = set(comfyui.names(ref))
    if ref.component != "unet":
        return own if ref.path == "text_projection" else {*own, f"{ref.component}.{ref.path}"}
    old = ref.path.replace(".to_", ".processor.to_")
    old = re.sub(r"\.to_out\.0$", ".to_out", old)
    return {old, f"unet.{old}"}


def _a1111(key: str, part: str, ref: LayerRef, family: Family | None) -> str | None:
    name = key.partition(".")[0]
    if name not in kohya.names(ref) and not is_original(name):
        return "names with dots: it reads kohya's alone"
    if part == "magnitude":
        return "DoRA magnitude: taken for one of the inputs"
    if ref.path == "text_projection":
        return "the text projection: no layer of a LoRA there"
    unread = _UNREAD_BY_A1111.get(family or "", {})
    return next((why for names, why in unread.items() if re.match(names, name)), None)


def _incomplete_attention(
    contents: LoRAContents, component: str | None
) -> Iterator[tuple[str, str]]:
    """Lists OpenCLIP's attention, one tensor in A1111, where not all four layers are there."""
    groups: Mapping[str, list[dict[str, str]]] = collections.defaultdict(list)
    for ref, layer in contents.layers.items():
        if ref.component == component and ".self_attn." in ref.path:
            groups[ref.path.rpartition(".")[0]].append(layer.keys)
    for layers in groups.values():
        if len(layers) < _WIDE:
            why = "attention of an OpenCLIP text encoder: read if q, k, v and out are all there"
            yield from ((key, why) for keys in layers for key in keys.values())


def _hidden(contents: LoRAContents, family: Family | None) -> str:
    """Returns why A1111 does not list the file beside models of its family; empty if it does."""
    header = contents.file.metadata
    version = header.get("ss_base_model_version", "")
    if family != "sdxl" or not header or version.startswith(_SDXL):
        return ""
    return "it lists files with a header beside SDXL only if that has ss_base_model_version sdxl_…"
