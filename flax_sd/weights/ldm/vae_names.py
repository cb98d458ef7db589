"""The VAE's modules. LDM numbers the decoder's levels by resolution, diffusers in their order."""

import re
from collections.abc import Collection, Iterator

from flax_sd.weights.ldm.renaming import Renaming

_SAME = ("conv_in", "conv_out")
_ATTENTION = [
    # Under diffusers' names in some files; the later pairs are what is written.
    ("to_q", "to_q"),
    ("to_k", "to_k"),
    ("to_v", "to_v"),
    ("to_out.0", "to_out.0"),
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
]
_LEVEL = re.compile(r"(?:encoder\.down|decoder\.up)(?:_blocks)?\.(\d{1,2})\.")


def vae_names(names: Collection[str]) -> Renaming:
    """Returns the names of a VAE's modules.

    Args:
      names: all of its tensors' names, without a prefix; either code's.
    """
    found = (_LEVEL.match(name) for name in names)
    levels = 1 + max((int(match[1]) for match in found if match), default=-1)
    return Renaming(
        [
            ("quant_conv", "quant_conv"),
            ("post_quant_conv", "post_quant_conv"),
            *_side("encoder"),
            *_side("decoder"),
            *(pair for level in range(levels) for pair in _level(level, levels)),
        ]
    )


def _side(side: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{side}.{name}", f"{side}.{name}") for name in _SAME)
    yield f"{side}.norm_out", f"{side}.conv_norm_out"
    yield f"{side}.mid.block_1", f"{side}.mid_block.resnets.0"
    yield f"{side}.mid.block_2", f"{side}.mid_block.resnets.1"
    for ours, theirs in _ATTENTION:
        yield f"{side}.mid.attn_1.{ours}", f"{side}.mid_block.attentions.0.{theirs}"


def _level(level: int, levels: int) -> Iterator[tuple[str, str]]:
    down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
    yield f"encoder.down.{level}.downsample", f"{down}.downsamplers.0"
    yield f"decoder.up.{level}.upsample", f"{up}.upsamplers.0"
    for ldm, block in ((f"encoder.down.{level}", down), (f"decoder.up.{level}", up)):
        yield f"{ldm}.block", f"{block}.resnets"
        # Only the first ResBlock of a level changes the number of channels.
        yield f"{ldm}.block.0.nin_shortcut", f"{block}.resnets.0.conv_shortcut"


# A file of a VAE alone may have diffusers' names already.
DIFFUSERS_VAE = Renaming(
    (name, name) for name in ("encoder", "decoder", "quant_conv", "post_quant_conv")
)
