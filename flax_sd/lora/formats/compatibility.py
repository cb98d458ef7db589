"""Which keys of a LoRA file other programs load, and why not the others.

diffusers 0.42.1 was tried; ComfyUI and A1111 are known by their sources: `comfy/lora.py` @17358c8f,
`extensions-builtin/Lora/networks.py` @873edba4 and `network.py` @f2844bd0.
"""

import collections
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from flax_sd.lora.formats.contents import Contents
from flax_sd.lora.formats.keys import Place, kohya_names, parse

_NO_LAYER = "no layer of a Stable Diffusion has such a name"
_ATTENTION = re.compile(r".*\.(attn[12]|self_attn)\..*")
_WIDE = 4  # projections of an attention: queries, keys, values, output


class _Tensor(NamedTuple):
    key: str
    part: str
    place: Place


class Opening(NamedTuple):
    """What a program does with a file.

    Attributes:
      left_out: keys that it does not load, each with the reason.
      remark: on what it loads.
    """

    left_out: dict[str, str]
    remark: str = ""


def opens_in(contents: Contents, *, sd2: bool) -> dict[str, Opening]:
    """The programs' names, and what they do with the file.

    Args:
      sd2: it is for Stable Diffusion 2, whose text encoder A1111 holds in another shape.
    """
    tensors = [
        _Tensor(key, part, place)
        for place, layer in contents.layers.items()
        for part, key in layer.keys.items()
    ]
    unknown = dict.fromkeys(contents.unknown, _NO_LAYER)
    dora = any(tensor.part == "magnitude" for tensor in tensors)
    comfyui = {tensor.key: why for tensor in tensors if (why := _comfyui(*tensor))}
    a1111 = {tensor.key: why for tensor in tensors if (why := _a1111(*tensor))}
    if sd2:
        a1111 |= dict(_packed(contents))
    remark = "of a DoRA it divides by ‖W‖, not ‖W + ΔW‖: other pictures" if dora else ""
    return {
        "diffusers": Opening(unknown | _diffusers(contents, tensors)),
        "ComfyUI": Opening(unknown | comfyui, remark),
        "A1111": Opening(unknown | a1111),
    }


def _diffusers(contents: Contents, tensors: list[_Tensor]) -> dict[str, str]:
    """Of `load_lora_weights`, which takes kohya's names if a file has no others."""
    keys = [*contents.unknown, *(tensor.key for tensor in tensors)]
    if all(re.match(r"lora_(unet|te[12]?)_", key) for key in keys):
        left_out = _minority(contents)
        for key, part, _ in tensors:
            if part == "magnitude":
                left_out[key] = "DoRA magnitude: left out with a warning"
    else:
        odd = [key for key in keys if "lora" not in key and not key.endswith(".dora_scale")]
        if odd:
            return dict.fromkeys(keys, f"it refuses a file with a key without 'lora' ({odd[0]})")
        left_out = {tensor.key: why for tensor in tensors if (why := _dotted(*tensor))}
    return left_out | _headless(contents)


def _minority(contents: Contents) -> dict[str, str]:
    """Alphas of attention, and of all of a text encoder: the network's commonest is taken."""
    counts: dict[str, collections.Counter[float]] = {}
    for place, layer in contents.layers.items():
        if "alpha" in layer.keys:
            counts.setdefault(place.component, collections.Counter())[layer.alpha] += 1
    common = {component: count.most_common(1)[0][0] for component, count in counts.items()}
    return {
        layer.keys["alpha"]: f"alpha: {common[place.component]:g} is taken for all such layers"
        for place, layer in contents.layers.items()
        if "alpha" in layer.keys
        and (place.component != "unet" or _ATTENTION.match(place.path))
        and layer.alpha != common[place.component]
    }


def _headless(contents: Contents) -> dict[str, str]:
    """Attention of a text encoder under `to_q_lora`, which it tells by `to_out_lora` alone."""
    left_out = {}
    for component in ("text_encoder", "text_encoder_2"):
        own = {
            place.path: layer
            for place, layer in contents.layers.items()
            if place.component == component
            and re.search(r"lora_te|\.to_\w+_lora\.", layer.keys["down"])
            and _ATTENTION.match(place.path)
        }
        if own and not any(path.endswith("out_proj") for path in own):
            why = "text encoder's attention: not read without any layer out_proj"
            left_out |= {key: why for layer in own.values() for key in layer.keys.values()}
    return left_out


def _dotted(key: str, part: str, place: Place) -> str | None:
    if key.startswith("lora_"):
        return "kohya's names: not read beside others"
    if not key.startswith(f"{place.component}."):
        return f"names without `{place.component}.` before them: not found"
    if key.endswith(".dora_scale"):
        return "DoRA magnitude: left out with a warning"
    if part == "alpha":
        return "alpha beside names with dots: not read"
    if part == "magnitude":
        bare = place.component != "unet" and not key.endswith(".weight")
        return "DoRA magnitude of a text encoder: not read without `.weight`" if bare else None
    if re.search(r"\.lora_[AB]\b", key) and not re.search(r"\.lora_[AB]\.weight$", key):
        return "names with an adapter's name, or without `.weight`: not read"
    return None


def _comfyui(key: str, part: str, place: Place) -> str | None:
    name = parse(key)
    assert name, key
    if part == "magnitude" and not key.endswith(".dora_scale"):
        return "DoRA magnitude of PEFT's name: not read"
    if part == "alpha" and key != f"{name.module}.alpha":
        return "alpha of an attention processor: not read"
    if name.module in kohya_names(place) or name.module in _of_comfyui(place):
        return None
    if place.component == "unet" and _ATTENTION.match(place.path):
        return "attention with dots in its names: read as `attn1.processor.to_q` alone"
    return "names with dots: not read in this spelling"


def _of_comfyui(place: Place) -> set[str]:
    """The dotted names that it reads a layer under, beside kohya's."""
    if place.component != "unet":
        return {f"{place.component}.{place.path}"}
    old = place.path.replace(".to_", ".processor.to_")
    old = re.sub(r"\.to_out\.0$", ".to_out", old)
    return {old, f"unet.{old}"}


def _a1111(key: str, part: str, place: Place) -> str | None:
    if key.partition(".")[0] not in kohya_names(place):
        return "names with dots: it reads kohya's alone"
    if part == "magnitude":
        return "DoRA magnitude: taken for one of the inputs"
    return None


def _packed(contents: Contents) -> Iterator[tuple[str, str]]:
    """Attention of OpenCLIP, which is one tensor there and changed if all four layers are."""
    groups: Mapping[str, list[dict[str, str]]] = collections.defaultdict(list)
    for place, layer in contents.layers.items():
        if place.component == "text_encoder" and ".self_attn." in place.path:
            groups[place.path.rpartition(".")[0]].append(layer.keys)
    for layers in groups.values():
        if len(layers) < _WIDE:
            why = "text encoder's attention of SD 2: read if q, k, v and out are all there"
            yield from ((key, why) for keys in layers for key in keys.values())
