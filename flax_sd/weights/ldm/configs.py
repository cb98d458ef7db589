"""Writes the config.json of a single file's components: a public model's, with the file's sizes.

All names and shapes here are of diffusers and transformers.
"""

import re
from collections.abc import Sequence
from typing import Any

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.weights.ldm.parts import Shapes

_HEAD = 64  # channels of an attention head, in all UNets but those of SD 1.x
_TRANSFORMER = re.compile(
    r"(down_blocks|up_blocks|mid_block)\.(?:(\d)\.)?attentions\.(\d{1,2})\.transformer_blocks\.(\d{1,2})\."
)
Depths = dict[tuple[str, int], list[int]]  # (side, block) -> transformers' depth by layer


def component_config(component: str, shapes: Shapes, base: JsonObject, where: str) -> JsonObject:
    """Returns the config.json of a unet, vae, text_encoder or text_encoder_2.

    Args:
      shapes: of its tensors.
      base: the config.json of a public model of the family.
      where: the file, for messages.

    Raises:
      UserError: it is nothing that diffusers' class can build, or of a width that no public model
        has.
    """
    match component:
        case "unet":
            return _unet(shapes, base, where)
        case "vae":
            return _vae(shapes, base, where)
    return _text_encoder(shapes, base, where)


def _unet(shapes: Shapes, base: JsonObject, where: str) -> JsonObject:
    blocks = range(_count(r"down_blocks\.(\d{1,2})\.", shapes))
    widths = [_of(shapes, f"down_blocks.{b}.resnets.0.conv1.weight", where)[0] for b in blocks]
    _check_width(widths[:1], base["block_out_channels"][0], f"{where}: its UNet")
    layers = [_count(rf"down_blocks\.{b}\.resnets\.(\d{{1,2}})\.", shapes) for b in blocks]
    depths = _depths(shapes)
    first, last = (_of(shapes, f"conv_{end}.weight", where) for end in ("in", "out"))
    new: JsonObject = {
        "in_channels": first[1],
        "out_channels": last[0],
        "block_out_channels": widths,
        "layers_per_block": _one(layers),
        "down_block_types": [_kind(depths, "down_blocks", b, "DownBlock2D") for b in blocks],
        "up_block_types": [_kind(depths, "up_blocks", b, "UpBlock2D") for b in blocks],
        **_middle(shapes, depths),
        **_transformers(shapes, depths, layers, where),
    }
    if isinstance(base["attention_head_dim"], list):
        new["attention_head_dim"] = [width // _HEAD for width in widths]
    if "add_embedding.linear_1.weight" in shapes:
        if base.get("addition_embed_type") != "text_time":
            raise UserError(
                f"{where}: its UNet reads a second embedding (label_emb), as unCLIP does and SDXL, "
                "but its text width is not SDXL's; that is not supported"
            )
        embedding = _of(shapes, "add_embedding.linear_1.weight", where)
        new["projection_class_embeddings_input_dim"] = embedding[1]
    return {**base, **new}


def _kind(depths: Depths, side: str, block: int, plain: str) -> str:
    return f"CrossAttn{plain}" if (side, block) in depths else plain


def _middle(shapes: Shapes, depths: Depths) -> JsonObject:
    """Returns the kind of the middle block, where it is not that of every public model."""
    if ("mid_block", 0) in depths:
        return {}
    # SSD-1B has a single ResBlock there, KOALA-700M nothing.
    there = any(name.startswith("mid_block.") for name in shapes)
    return {"mid_block_type": "UNetMidBlock2D" if there else None}


def _transformers(shapes: Shapes, depths: Depths, layers: list[int], where: str) -> JsonObject:
    """Returns the fields of the transformers: text width, projections and depth of each block."""
    new: JsonObject = {}
    for name, shape in shapes.items():
        if name.endswith("attn2.to_k.weight"):
            new["cross_attention_dim"] = _of(shapes, name, where)[1]
        elif name.endswith("attentions.0.proj_in.weight"):
            new["use_linear_projection"] = len(shape) == 2
    _check_layers(depths, layers, where)
    blocks = len(layers)
    down = [depths.get(("down_blocks", b), [1]) for b in range(blocks)]
    up = [depths.get(("up_blocks", b), [1]) for b in range(blocks)]
    middle = depths.get(("mid_block", 0), down[-1])
    if ("down_blocks", blocks - 1) not in depths:
        down[-1] = middle  # diffusers gives the middle the depth of the last block
    elif set(middle) != set(down[-1]):
        raise UserError(
            f"{where}: the transformer in the middle of its UNet has depth {middle[0]}, those "
            f"of the last block {down[-1]}; diffusers' class builds one depth for both"
        )
    wanted = [_one(depth) for depth in down]
    if set(map(str, wanted)) != {"1"}:
        new["transformer_layers_per_block"] = wanted
    mirrored = zip(reversed(wanted), up, range(blocks), strict=True)
    if any(("up_blocks", b) in depths and _one(own) != depth for depth, own, b in mirrored):
        new["transformer_layers_per_block"] = wanted
        new["reverse_transformer_layers_per_block"] = [_one(own) for own in up]
    return new


def _check_layers(depths: Depths, layers: list[int], where: str) -> None:
    """Raises where only some layers of a block have a transformer, which no class builds."""
    for (side, block), found in depths.items():
        wanted = {
            "down_blocks": layers[block],
            "up_blocks": layers[len(layers) - 1 - block] + 1,
            "mid_block": 1,
        }[side]
        if len(found) != wanted or 0 in found:
            raise UserError(
                f"{where}: {side}.{block} of its UNet has transformers of depths {found} beside "
                f"{wanted} ResBlocks; each should have one, or none"
            )


def _depths(shapes: Shapes) -> Depths:
    depths: Depths = {}
    for name in shapes:
        if found := _TRANSFORMER.match(name):
            side, block, layer, depth = found[1], int(found[2] or 0), int(found[3]), int(found[4])
            known = depths.setdefault((side, block), [])
            known += [0] * (layer + 1 - len(known))
            known[layer] = max(known[layer], depth + 1)
    return depths


def _vae(shapes: Shapes, base: JsonObject, where: str) -> JsonObject:
    blocks = range(_count(r"encoder\.down_blocks\.(\d{1,2})\.", shapes))
    first = [_of(shapes, f"encoder.down_blocks.{b}.resnets.0.conv1.weight", where) for b in blocks]
    _check_width(first[0][:1] if first else [], base["block_out_channels"][0], f"{where}: its VAE")
    return {
        **base,
        "in_channels": _of(shapes, "encoder.conv_in.weight", where)[1],
        "out_channels": _of(shapes, "decoder.conv_out.weight", where)[0],
        "latent_channels": _of(shapes, "decoder.conv_in.weight", where)[1],
        "block_out_channels": [shape[0] for shape in first],
        "layers_per_block": _count(r"encoder\.down_blocks\.0\.resnets\.(\d{1,2})\.", shapes),
        "down_block_types": ["DownEncoderBlock2D"] * len(blocks),
        "up_block_types": ["UpDecoderBlock2D"] * len(blocks),
    }


def _text_encoder(shapes: Shapes, base: JsonObject, where: str) -> JsonObject:
    words = _of(shapes, "text_model.embeddings.token_embedding.weight", where)
    hidden = _of(shapes, "text_model.encoder.layers.0.mlp.fc1.weight", where)
    places = _of(shapes, "text_model.embeddings.position_embedding.weight", where)
    _check_width(words[1:], base["hidden_size"], f"{where}: its text encoder")
    new: JsonObject = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "intermediate_size": hidden[0],
        "max_position_embeddings": places[0],
        "num_hidden_layers": _count(r"text_model\.encoder\.layers\.(\d{1,2})\.", shapes),
    }
    if "text_projection.weight" in shapes:
        new["projection_dim"] = _of(shapes, "text_projection.weight", where)[0]
    return {**base, **new}


def _check_width(found: Sequence[int], wanted: int, what: str) -> None:
    """Raises for a width that no public model has: no tensor tells its heads and groups."""
    if list(found) != [wanted]:
        raise UserError(
            f"{what} has width {found[0] if found else 0} and not {wanted}, so the tensors do not "
            "tell its attention heads and norms; name a diffusers folder of these sizes as config"
        )


def _count(pattern: str, shapes: Shapes) -> int:
    found = (re.match(pattern, name) for name in shapes)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _of(shapes: Shapes, key: str, where: str) -> tuple[int, ...]:
    if len(shape := shapes.get(key, ())) < 2:
        found = list(shape) or "none"
        raise UserError(f"{where}: {key} should have two axes or more, found {found}")
    return shape


def _one(values: Sequence[Any]) -> Any:
    """Returns the number that all are, or all."""
    return values[0] if all(value == values[0] for value in values) else list(values)
