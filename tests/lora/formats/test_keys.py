import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.formats.keys import name_table, split_key
from flax_sd.lora.targets import slots

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEXT = "text_model.encoder.layers.0.self_attn"
LAYERS = [
    LayerRef("unet", f"{UNET}.to_q"),
    LayerRef("unet", f"{UNET}.to_out.0"),
    LayerRef("unet", "down_blocks.0.resnets.1.conv_shortcut"),
    LayerRef("text_encoder", f"{TEXT}.q_proj"),
    LayerRef("text_encoder", f"{TEXT}.out_proj"),
    LayerRef("text_encoder", TEXT.replace("self_attn", "mlp.fc1")),
]
FLAT = UNET.replace(".", "_")
TO_Q, TO_OUT, _, Q_PROJ, OUT_PROJ, _ = LAYERS


@pytest.mark.parametrize(
    ("key", "ref", "part"),
    [
        (f"lora_unet_{FLAT}_to_q.lora_down.weight", TO_Q, "down"),
        (f"lora_unet_{FLAT}_to_out_0.lora_up.weight", TO_OUT, "up"),
        (f"lora_unet_{FLAT}_to_out_0.alpha", TO_OUT, "alpha"),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha", Q_PROJ, "alpha"),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight", Q_PROJ, "up"),
        (f"unet.{UNET}.to_q.lora_A.weight", TO_Q, "down"),
        (f"unet.{UNET}.to_out.0.lora_B.weight", TO_OUT, "up"),
        (f"{UNET}.to_q.lora_A.default.weight", TO_Q, "down"),
        (f"{UNET}.to_q.lora_A.pixel-art.weight", TO_Q, "down"),  # F27: any adapter's name
        (f"base_model.model.{UNET}.to_q.lora_B.my cat 2.weight", TO_Q, "up"),
        (f"{UNET}.to_q.lora_magnitude_vector.pixel-art.weight", TO_Q, "magnitude"),
        (f"base_model.model.{UNET}.to_q.lora_B.weight", TO_Q, "up"),
        (f"base_model.model.unet.{UNET}.to_q.lora_B.weight", TO_Q, "up"),
        (f"text_encoder.{TEXT}.q_proj.lora_A.weight", Q_PROJ, "down"),
        ("text_encoder.encoder.layers.0.self_attn.q_proj.lora_B.weight", Q_PROJ, "up"),
        (f"unet.{UNET}.to_out.0.lora.down.weight", TO_OUT, "down"),
        (f"text_encoder.{TEXT}.q_proj.lora_linear_layer.up.weight", Q_PROJ, "up"),
        (f"{UNET}.processor.to_q_lora.down.weight", TO_Q, "down"),
        (f"unet.{UNET}.processor.to_out_lora.up.weight", TO_OUT, "up"),
        (f"{UNET}.processor.to_q_lora.alpha", TO_Q, "alpha"),
        (f"text_encoder.{TEXT}.to_q_lora.down.weight", Q_PROJ, "down"),
        (f"text_encoder.{TEXT}.to_out_lora.up.weight", OUT_PROJ, "up"),
        (
            "lora_unet_down_blocks_0_resnets_1_conv_shortcut.lora_down.weight",
            LayerRef("unet", "down_blocks.0.resnets.1.conv_shortcut"),
            "down",
        ),
    ],
)
def test_every_formats_key_finds_its_layer(key, ref, part):
    found = split_key(key)
    assert found is not None and found[1] == part
    assert name_table(LAYERS)[found[0]] == ref


@settings(deadline=None)
@given(
    st.text("abc_.0", min_size=1).filter(lambda s: not s.startswith(".")),
    st.sampled_from(["down", "up"]),
)
def test_kohya_keys_parse_for_any_module(module, part):
    assert split_key(f"{module}.lora_{part}.weight") == (module, part)


@pytest.mark.parametrize("key", ["", "conv.weight", "unet:0:up", "x.lora_mid.weight", "emb_params"])
def test_other_keys_are_left_alone(key):
    assert split_key(key) is None


@pytest.mark.slow
def test_names_of_different_layers_never_meet(sd15):
    paths = list(slots(sd15))
    names = name_table([*(LayerRef("unet", path) for path in paths), *LAYERS[3:]])
    assert len(set(names.values())) == len(paths) + 3
    # An attention layer has two spellings, each for itself: none was taken by another layer.
    assert sum(name.startswith("lora_unet_") for name in names) == 282 + 128
