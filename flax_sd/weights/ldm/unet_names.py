"""The UNet's modules: LDM's flat lists of blocks, and diffusers' blocks of several layers.

LDM numbers `input_blocks` one after another: the first convolution, then for each block its
ResBlocks (a transformer, if any, beside each), then its downsampler. `output_blocks` are the
ResBlocks of the up blocks; a block's upsampler is inside the last of them, after the transformer.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from flax_sd.weights.ldm.renaming import Renaming

_OUTSIDE = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
]
_RESBLOCK = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
]


class Layout(NamedTuple):
    """What the numbers in LDM's names depend on.

    Attributes:
      layers: number of ResBlocks of each down block; up blocks have one more.
      up_attends: per up block, whether it has transformers.
    """

    layers: tuple[int, ...]
    up_attends: tuple[bool, ...]

    @classmethod
    def of_ldm(cls, names: Collection[str]) -> "Layout":
        """Reads the layout from LDM names, without their prefix."""
        layers = [0]
        for place in range(1, _count(r"input_blocks\.(\d{1,2})\.", names)):
            if f"input_blocks.{place}.0.op.weight" in names:
                layers.append(0)
            else:
                layers[-1] += 1
        ends, attends = -1, []
        for count in reversed(layers):
            ends += count + 1
            attends.append(f"output_blocks.{ends}.1.norm.weight" in names)
        return cls(tuple(layers), tuple(attends))

    @classmethod
    def of_diffusers(cls, names: Collection[str]) -> "Layout":
        """Reads the layout from diffusers' names of tensors or of layers."""
        blocks = range(_count(r"down_blocks\.(\d{1,2})\.", names))
        layers = (_count(rf"down_blocks\.{b}\.resnets\.(\d{{1,2}})\.", names) for b in blocks)
        attends = (_count(rf"up_blocks\.{b}\.attentions\.(\d{{1,2}})\.", names) > 0 for b in blocks)
        return cls(tuple(layers), tuple(attends))


def _count(pattern: str, names: Collection[str]) -> int:
    """Returns one more than the largest number that the pattern finds; 0 if it finds none."""
    found = (re.match(pattern, name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def unet_names(layout: Layout) -> Renaming:
    """Returns the names of a UNet's modules."""
    return Renaming([*_OUTSIDE, *_down(layout), *_middle(), *_up(layout)])


def _down(layout: Layout) -> Iterator[tuple[str, str]]:
    place = 0
    for block, count in enumerate(layout.layers):
        for layer in range(count):
            place += 1
            yield from _resblock(f"input_blocks.{place}.0", f"down_blocks.{block}.resnets.{layer}")
            yield f"input_blocks.{place}.1", f"down_blocks.{block}.attentions.{layer}"
        place += 1
        yield f"input_blocks.{place}.0.op", f"down_blocks.{block}.downsamplers.0.conv"


def _middle() -> Iterator[tuple[str, str]]:
    yield from _resblock("middle_block.0", "mid_block.resnets.0")
    yield "middle_block.1", "mid_block.attentions.0"
    yield from _resblock("middle_block.2", "mid_block.resnets.1")


def _up(layout: Layout) -> Iterator[tuple[str, str]]:
    place = -1
    for block, count in enumerate(reversed(layout.layers)):
        attends = layout.up_attends[block]
        for layer in range(count + 1):
            place += 1
            yield from _resblock(f"output_blocks.{place}.0", f"up_blocks.{block}.resnets.{layer}")
            if attends:
                yield f"output_blocks.{place}.1", f"up_blocks.{block}.attentions.{layer}"
        sampler = f"output_blocks.{place}.{1 + attends}.conv"
        yield sampler, f"up_blocks.{block}.upsamplers.0.conv"


def _resblock(ldm: str, diffusers: str) -> Iterator[tuple[str, str]]:
    return ((f"{ldm}.{ours}", f"{diffusers}.{theirs}") for ours, theirs in _RESBLOCK)
