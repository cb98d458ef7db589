"""What a file of tensors is, by names that real files have (U7)."""

import pytest

from flax_sd.weights.tensor_kinds import describe

LDM = "model.diffusion_model."
CROSS = f"{LDM}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
FIRST = f"{LDM}input_blocks.0.0.weight"
TOKENS = "text_model.embeddings.token_embedding.weight"


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        (
            {CROSS: (640, 768), FIRST: (320, 4, 3, 3)},
            "a Stable Diffusion 1.x checkpoint in one file",
        ),
        (
            {CROSS: (640, 1024), FIRST: (320, 9, 3, 3)},
            "a Stable Diffusion 2.x inpainting checkpoint in one file",
        ),
        ({CROSS: (640, 2048)}, "an SDXL checkpoint in one file"),
        ({f"{LDM}joint_blocks.0.x.weight": (2,)}, "a Stable Diffusion 3 checkpoint in one file"),
        ({"double_blocks.0.img_attn.qkv.weight": (2, 2)}, "a Flux checkpoint in one file"),
        (
            {
                "time_embedding.linear_1.weight": (1280, 320),
                "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            },
            "a UNet, Stable Diffusion 1.x",
        ),
        (
            {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "conv_in.weight": (1,)},
            "a ControlNet",
        ),
        ({"control_model.time_embed.0.weight": (1280, 320)}, "a ControlNet"),
        ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "a VAE"),
        ({"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}, "a VAE"),
        (
            {"text_model.encoder.layers.0.x": (2,), TOKENS: (49408, 768)},
            "a text encoder (CLIP-L, of Stable Diffusion 1.x and SDXL)",
        ),
        ({"clip_l": (1, 768), "clip_g": (1, 1280)}, "an embedding for SDXL"),
        ({"a": (2,), "b": (2,)}, ""),
    ],
)
def test_names_tell(shapes, what):
    assert describe(shapes) == what
