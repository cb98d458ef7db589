"""Which keys of a LoRA file diffusers' `load_lora_weights` ignores; 0.42.1 was tried."""

import collections
import re
from collections.abc import Mapping, Sequence

from flax_sd.lora.formats.contents import LoRAContents
from flax_sd.lora.formats.format import ATTENTION, LayerRef
from flax_sd.weights.family import Family

_ORIGINAL_BLOCK = re.compile(
    r"lora_unet_(?!input_blocks_0_0\b)((input|output)_blocks|middle_block)_"
)
_BLOCK = re.compile(r"lora_unet_((down|up)_blocks|mid_block)_")
_SIZES = re.compile(r"lora_unet_add_embedding_")


def not_loaded(contents: LoRAContents, family: Family | None) -> dict[str, str]:
    """Lists the keys that `load_lora_weights` ignores; it reads kohya's names if a file has no
    others.

    Args:
      family: of the pipeline's model.
    """
    tensors = contents.tensors()
    keys = [*contents.unknown, *(key for key, _, _ in tensors)]
    if all(re.match(r"lora_(unet|te[12]?)_", key) for key in keys):
        left_out = _overridden_alphas(contents) | _names_of_kohya(keys, family)
        for key, part, _ in tensors:
            if part == "magnitude":
                left_out[key] = "DoRA magnitude: left out with a warning"
    else:
        odd = [key for key in keys if "lora" not in key and not key.endswith(".dora_scale")]
        if odd:
            return dict.fromkeys(keys, f"it refuses a file with a key without 'lora' ({odd[0]})")
        left_out = {k: why for k, part, ref in tensors if (why := _diffusers_dotted(k, part, ref))}
    return left_out | _attention_without_output(contents)


def _names_of_kohya(keys: Sequence[str], family: Family | None) -> dict[str, str]:
    """Lists keys whose names are not understood: originals, and the embeddings of SDXL."""
    why = ""
    if family != "sdxl":
        why = "original names of blocks: it knows them in SDXL alone"
    elif any(map(_BLOCK.match, keys)):
        why = "original names of blocks: left out beside diffusers'"
    left_out = dict.fromkeys(filter(_ORIGINAL_BLOCK.match, keys), why) if why else {}
    sizes = "embeddings of size and crop under diffusers' names: mixed up, and left out"
    return left_out | dict.fromkeys(filter(_SIZES.match, keys), sizes)


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
        if (ref.component != "unet" or ATTENTION.match(ref.path))
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
            and ATTENTION.match(ref.path)
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
