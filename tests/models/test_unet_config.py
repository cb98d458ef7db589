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


def test_depths_of_each_layer():
    down, up = ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2), ("CrossAttnUpBlock2D",) * 3
    blocks = {"block_out_channels": [32] * 3, "down_block_types": down, "up_block_types": up}
    config = UNetConfig.from_json({**blocks, "transformer_layers_per_block": [1, 2, 10]})
    assert config.down_depths == ((1, 1), (2, 2), (10, 10))
    assert config.up_depths == ((10,) * 3, (2,) * 3, (1,) * 3)
    own = {"transformer_layers_per_block": [0, [2, 1], 4]}
    reverse = {"reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1]}
    config = UNetConfig.from_json({**blocks, **own, **reverse})
    assert config.down_depths == ((0, 0), (2, 1), (4, 4))
    assert config.up_depths == ((4, 4, 10), (2, 1, 1), (1, 1, 1))
    with pytest.raises(UserError, match="reverse_transformer_layers_per_block should say the up"):
        UNetConfig.from_json({**blocks, **own})
    reverse = {"reverse_transformer_layers_per_block": [[4, 4], 1, 1]}
    with pytest.raises(UserError, match="per_block has 2 entries for a block of 3 layers"):
        UNetConfig.from_json({**blocks, **own, **reverse})


def test_added_conditions_need_their_widths():
    with pytest.raises(UserError, match=r"(?s)addition_time_embed_dim is missing.*input_dim is"):
        UNetConfig.from_json({"addition_embed_type": "text_time"})
    with pytest.raises(UserError, match='addition_embed_type has "image": supported is text_time'):
        UNetConfig.from_json({"addition_embed_type": "image"})


def test_the_guidance_scale_of_an_lcm_is_refused_by_name():
    """Trap 16: without it the UNet would draw with wrong guidance."""
    with pytest.raises(UserError, match="time_cond_proj_dim"):
        UNetConfig.from_json({"time_cond_proj_dim": 256})
