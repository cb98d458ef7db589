"""Which keys of a LoRA file other programs load, and why not the others.

diffusers 0.42.1 was tried; ComfyUI and A1111 are known by their sources: `comfy/lora.py` @17358c8f,
`extensions-builtin/Lora/networks.py` @873edba4 and `network.py` @f2844bd0.
"""

import collections
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from flax_sd.lora.formats import kohya
from flax_sd.lora.formats.contents import LoRAContents
from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.formats.keys import split_key

_NO_LAYER = "no layer of a Stable Diffusion has such a name"
_ATTENTION = re.compile(r".*\.(attn[12]|self_attn)\..*")
_WIDE = 4  # projections of an attention: queries, keys, values, output


_Tensor = tuple[str, str, LayerRef]  # key, part, layer


class Support(NamedTuple):
    """The extent to which a program loads a file.

    Attributes:
      not_loaded: keys that it leaves out, each with the reason.
      remark: on what it loads.
    """

    not_loaded: dict[str, str]
    remark: str = ""


def support(contents: LoRAContents, *, sd2: bool) -> dict[str, Support]:
    """Returns, by the program's name, how much of the file each loads.

    Args:
      sd2: it is for Stable Diffusion 2, whose text encoder A1111 holds in another shape.
    """
    layers = contents.layers.items()
    tensors = [(key, part, ref) for ref, layer in layers for part, key in layer.keys.items()]
    unknown = dict.fromkeys(contents.unknown, _NO_LAYER)
    comfyui = {key: why for key, part, ref in tensors if (why := _comfyui(key, part, ref))}
    a1111 = {key: why for key, part, ref in tensors if (why := _a1111(key, part, ref))}
    if sd2:
        a1111 |= dict(_incomplete_attention(contents))
    remark = "of a DoRA it divides by ‖W‖, not ‖W + ΔW‖: other images" if contents.is_dora else ""
    return {
        "diffusers": Support(unknown | _diffusers(contents, tensors)),
        "ComfyUI": Support(unknown | comfyui, remark),
        "A1111": Support(unknown | a1111),
    }


def _diffusers(contents: LoRAContents, tensors: list[_Tensor]) -> dict[str, str]:
    """Lists the keys that `load_lora_weights` ignores; it reads kohya's names if a file has no
    others."""
    keys = [*contents.unknown, *(key for key, _, _ in tensors)]
    if all(re.match(r"lora_(unet|te[12]?)_", key) for key in keys):
        left_out = _overridden_alphas(contents)
        for key, part, _ in tensors:
            if part == "magnitude":
                left_out[key] = "DoRA magnitude: left out with a warning"
    else:
        odd = [key for key in keys if "lora" not in key and not key.endswith(".dora_scale")]
        if odd:
            return dict.fromkeys(keys, f"it refuses a file with a key without 'lora' ({odd[0]})")
        left_out = {k: why for k, part, ref in tensors if (why := _diffusers_dotted(k, part, ref))}
    return left_out | _attention_without_output(contents)


def _overridden_alphas(contents: LoRAContents) -> dict[str, str]:
    """Lists alphas that are replaced by the network's commonest: attention's, a text encoder's."""
    stated = {ref: layer for ref, layer in contents.layers.items() if "alpha" in layer.keys}
    counts: Mapping[str, collections.Counter[float]] = collections.defaultdict(collections.Counter)
    for ref, layer in stated.items():
        counts[ref.component][layer.alpha] += 1
    common = {component: count.most_common(1)[0][0] for component, count in counts.items()}
    return {
        layer.keys["alpha"]: f"alpha: {common[ref.component]:g} is taken for all such layers"
        for ref, layer in stated.items()
        if (ref.component != "unet" or _ATTENTION.match(ref.path))
        and layer.alpha != common[ref.component]
    }


def _attention_without_output(contents: LoRAContents) -> dict[str, str]:
    """Lists a text encoder's attention without a `to_out_lora`, by which it is found."""
    left_out = {}
    for component in ("text_encoder", "text_encoder_2"):
        own = {
            ref.path: layer
            for ref, layer in contents.layers.items()
            if ref.component == component
            and re.search(r"lora_te|\.to_\w+_lora\.", layer.keys["down"])
            and _ATTENTION.match(ref.path)
        }
        if own and not any(path.endswith("out_proj") for path in own):
            why = "text encoder's attention: not read without any layer out_proj"
            left_out |= {key: why for layer in own.values() for key in layer.keys.values()}
    return left_out


def _diffusers_dotted(key: str, part: str, ref: LayerRef) -> str | None:
    if key.startswith("lora_"):
        return "kohya's names: not read beside others"
    if not key.startswith(f"{ref.component}."):
        return f"names without `{ref.component}.` before them: not found"
    if key.endswith(".dora_scale"):
        return "DoRA magnitude: left out with a warning"
    if part == "alpha":
        return "alpha beside names with dots: not read"
    if part == "magnitude":
        bare = ref.component != "unet" and not key.endswith(".weight")
        return "DoRA magnitude of a text encoder: not read without `.weight`" if bare else None
    if re.search(r"\.lora_[AB]\b", key) and not re.search(r"\.lora_[AB]\.weight$", key):
        return "names with an adapter's name, or without `.weight`: not read"
    return None


def _comfyui(key: str, part: str, ref: LayerRef) -> str | None:
    name = (split_key(key) or ("",))[0]
    if part == "magnitude" and not key.endswith(".dora_scale"):
        return "DoRA magnitude of PEFT's name: not read"
    if part == "alpha" and key != f"{name}.alpha":
        return "alpha of an attention processor: not read"
    if name in kohya.names(ref) or name in _comfyui_names(ref):
        return None
    if ref.component == "unet" and _ATTENTION.match(ref.path):
        return "attention with dots in its names: read as `attn1.processor.to_q` alone"
    return "names with dots: not read in this spelling"


def _comfyui_names(ref: LayerRef) -> set[str]:
    """Returns the dotted names under which ComfyUI reads a layer, beside kohya's."""
    if ref.component != "unet":
        return {f"{ref.component}.{ref.path}"}
    old = ref.path.replace(".to_", ".processor.to_")
    old = re.sub(r"\.to_out\.0$", ".to_out", old)
    return {old, f"unet.{old}"}


def _a1111(key: str, part: str, ref: LayerRef) -> str | None:
    if key.partition(".")[0] not in kohya.names(ref):
        return "names with dots: it reads kohya's alone"
    if part == "magnitude":
        return "DoRA magnitude: taken for one of the inputs"
    return None


def _incomplete_attention(contents: LoRAContents) -> Iterator[tuple[str, str]]:
    """Lists OpenCLIP's attention, one tensor in A1111, where not all four layers are there."""
    groups: Mapping[str, list[dict[str, str]]] = collections.defaultdict(list)
    for ref, layer in contents.layers.items():
        if ref.component == "text_encoder" and ".self_attn." in ref.path:
            groups[ref.path.rpartition(".")[0]].append(layer.keys)
    for layers in groups.values():
        if len(layers) < _WIDE:
            why = "text encoder's attention of SD 2: read if q, k, v and out are all there"
            yield from ((key, why) for keys in layers for key in keys.values())
