"""The UNet's names against diffusers' converter, for the public layouts and their relatives."""

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from flax_sd.weights.ldm.parts import UNET, part_to_write, parts_of
from flax_sd.weights.ldm.unet_names import Layout
from tests.weights.ldm import tiny_files
from tests.weights.ldm.public import FOLDERS, config, shapes

SMALL = {
    "SSD-1B": {  # trap 15
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "reverse_transformer_layers_per_block": [[2, 1, 3], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "KOALA": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 2),
        "mid_block_type": None,
    },
    "refiner": {
        "block_out_channels": (4, 8, 8),
        "norm_num_groups": 2,
        "attention_head_dim": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 4,
    },
}


def assert_same_names(keys, raw):
    """Each tensor is its own name, which the converter passes on."""
    part = part_to_write("unet", "sd1", keys)
    file = {part.place(key).name: key for key in keys}
    assert len(file) == len(keys) and all(name.startswith(UNET) for name in file)
    assert convert_ldm_unet_checkpoint(file, raw) == {key: key for key in keys}
    (read,) = parts_of({name: (1,) for name in file})
    assert {key for name in file for key in read.places(name)} == set(keys)
    assert all(read.place(key) == part.place(key) for key in keys)


@pytest.mark.parametrize("family", FOLDERS)
def test_every_name_of_a_public_model(public, family):
    assert_same_names(shapes(public, family, "unet"), config(public, family, "unet"))


@pytest.mark.parametrize("name", SMALL)
def test_relatives_of_sdxl(name):
    """Trap 15."""
    with torch.device("meta"):
        options = {"addition_embed_type": "text_time", "addition_time_embed_dim": 6}
        options |= {"projection_class_embeddings_input_dim": 16, "cross_attention_dim": 12}
        model = diffusers.UNet2DConditionModel(
            **{"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 2}
            | options
            | SMALL[name]
        )
    assert_same_names(model.state_dict(), dict(model.config))


def test_a_layout_is_the_same_from_either_names():
    keys = tiny_files.unet("sd1").state_dict()
    part = part_to_write("unet", "sd1", keys)
    names = {part.place(key).name.removeprefix(UNET) for key in keys}
    assert Layout.of_ldm(names) == Layout.of_diffusers(keys) == Layout((2, 2), (False, True))


def test_an_upsampler_is_after_the_transformer_if_there_is_one():
    """diffusers reads it at either place; other programs, and the files, have one."""
    part = part_to_write("unet", "sd1", tiny_files.unet("sd1").state_dict())
    place = part.place("up_blocks.0.upsamplers.0.conv.bias")
    assert place.name == f"{UNET}output_blocks.2.1.conv.bias"
    part = part_to_write("unet", "sdxl", tiny_files.unet("sdxl").state_dict())
    place = part.place("up_blocks.0.upsamplers.0.conv.bias")
    assert place.name == f"{UNET}output_blocks.2.2.conv.bias"


def test_unknown_names_have_no_place():
    part = part_to_write("unet", "sd1", tiny_files.unet("sd1").state_dict())
    assert part.place("fc_in.weight") is None and part.places(f"{UNET}input_hint.0.weight") == {}
