import inspect

import diffusers
import pytest

from flax_sd.errors import UserError
from flax_sd.models.unet_config import ALIKE, UNSUPPORTED, UNetConfig

SIGNATURE = {
    name: parameter.default
    for name, parameter in inspect.signature(diffusers.UNet2DConditionModel).parameters.items()
}


# Read by networks alone that another field's value makes, or of no effect on numbers.
IDLE = {
    "upcast_attention",  # always done here: the softmax is float32
    "resnet_skip_time_act",
    "resnet_out_scale_factor",
    "cross_attention_norm",
    "mid_block_only_cross_attention",
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
}


def test_fields_and_refused_fields_are_diffusers_signature():
    fields = UNetConfig.__dataclass_fields__
    assert not fields.keys() & UNSUPPORTED.keys() and ALIKE.keys() <= UNSUPPORTED.keys()
    assert fields.keys() | UNSUPPORTED.keys() | IDLE == SIGNATURE.keys()


def test_defaults_are_diffusers_defaults():
    ours = {name: getattr(UNetConfig(), name) for name in UNetConfig.__dataclass_fields__}
    assert ours | UNSUPPORTED == {k: v for k, v in SIGNATURE.items() if k not in IDLE}


def test_one_number_stands_for_every_block():
    config = UNetConfig(attention_head_dim=5, layers_per_block=3, block_out_channels=(320,) * 4)
    assert config.heads == (5,) * 4 and config.layers == (3,) * 4 and config.time_width == 1280


def test_misfits_are_named_at_once():
    raw = {
        "block_out_channels": [30, 64],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
        "attention_head_dim": [4, 8],
        "layers_per_block": [1, 2, 3],
        "class_embed_type": "timestep",
        "mid_block_type": 3,
    }
    with pytest.raises(UserError) as caught:
        UNetConfig.from_json(raw, "x/unet/config.json")
    assert sorted(str(caught.value).splitlines()) == sorted(
        [
            "x/unet/config.json does not describe a network that flax_sd can build:",
            "  mid_block_type is 3: should be a valid string",
            '  class_embed_type is "timestep": only null is supported',
            '  up_block_types has "AttnUpBlock2D": supported is CrossAttnUpBlock2D or UpBlock2D',
        ]
    )
    fields = {name: raw[name] for name in raw if name not in ("class_embed_type", "mid_block_type")}
    with pytest.raises(UserError) as caught:
        UNetConfig.from_json({**fields, "up_block_types": ["UpBlock2D"] * 2})
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "down_block_types has 1 entries: block_out_channels has 2, one a block",
        "layers_per_block has 3 entries: block_out_channels has 2, one a block",
        "norm_num_groups 32 does not divide a block's 30 channels",
        "attention_head_dim (number of heads) 4 does not divide a block's 30 channels",
    ]


def test_sdxl_is_refused_by_name_of_its_fields():
    raw = {"addition_embed_type": "text_time", "transformer_layers_per_block": [1, 2, 10]}
    with pytest.raises(UserError, match=r"(?s)transformer_layers_per_block.*addition_embed_type"):
        UNetConfig.from_json(raw)
