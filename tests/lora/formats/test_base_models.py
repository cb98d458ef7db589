"""The models that LoRA files are for, by names that real files have (U7)."""

import pytest

from flax_sd.lora.formats.base_models import foreign_model, told_family
from flax_sd.lora.formats.format import LayerRef

BLOCK = "transformer_blocks_0_attn1_to_q.lora_down.weight"


@pytest.mark.parametrize(
    ("key", "model"),
    [
        (f"lora_unet_input_blocks_4_1_{BLOCK.replace('_0_', '_1_', 1)}", "SDXL"),
        (f"lora_unet_middle_block_1_{BLOCK.replace('_0_', '_9_', 1)}", "SDXL"),
        (f"lora_unet_output_blocks_0_1_{BLOCK}", "SDXL"),
        ("lora_unet_label_emb_0_0.lora_down.weight", "SDXL"),
        ("text_encoders.clip_g.transformer.text_projection.lora_up.weight", "SDXL"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", "SDXL"),
        ("unet.down_blocks.2.attentions.0.transformer_blocks.3.attn1.to_q.lora_A.weight", "SDXL"),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "Stable Diffusion 3"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "Stable Diffusion 3"),
        ("diffusion_model.blocks.0.cross_attn.k.lora_A.weight", "a video or image transformer"),
        (f"lora_unet_input_blocks_1_1_{BLOCK}", None),
        (f"lora_unet_input_blocks_4_1_{BLOCK}", None),
        (f"lora_unet_output_blocks_11_1_{BLOCK}", None),
        (f"lora_unet_mid_block_attentions_0_{BLOCK}", None),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1.alpha", None),
        ("lora_te1_text_model_encoder_layers_11_mlp_fc1.alpha", None),
    ],
)
def test_names_tell(key, model):
    assert foreign_model([key]) == model


TO_K = LayerRef("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k")
Q_PROJ = LayerRef("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")


@pytest.mark.parametrize(
    ("keys", "inputs", "header", "family"),
    [
        ([], {TO_K: 2048}, {"ss_base_model_version": "sd_v1"}, "sdxl"),
        ([], {TO_K: 1024}, {}, "sd2"),
        ([], {TO_K: 768}, {}, "sd1"),
        ([], {Q_PROJ: 1024}, {}, "sd2"),
        ([], {Q_PROJ: 768}, {}, None),  # of SD 1.x, or SDXL's first
        ([], {Q_PROJ: 768}, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ([], {TO_K: 20}, {"ss_base_model_version": "sd_v2_v"}, "sd2"),
        (["lora_unet_input_blocks_1_0_in_layers_2.alpha"], {}, {}, "sdxl"),
        (["lora_te2_text_projection.alpha"], {}, {}, "sdxl"),
        (["lora_unet_double_blocks_0_img_attn_proj.alpha"], {TO_K: 768}, {}, None),
    ],
)
def test_the_family_by_names_then_widths_then_header(keys, inputs, header, family):
    assert told_family(keys, inputs, header) == family
