"""What other programs load of SDXL's LoRAs: diffusers itself, and the web UIs' maps made anew."""

import re

import numpy as np
import pytest

from tests import tiny
from tests.lora.formats.other_programs import (
    COMFYUIS_ENDS,
    FF,
    K_PROJ,
    OUT_PROJ,
    Q_PROJ,
    TEXT,
    TO_Q,
    flat,
    loaded_by_diffusers,
    not_there,
    opened,
    pair,
    peft,
    unet,
)

MIDDLE = "middle_block.1.transformer_blocks.1"


def te(path, number, alpha=None, outputs=None):
    name = flat(f"lora_te{number}_", path)
    own = pair(name, {"1": 12, "2": 10}[number], outputs=outputs)
    return own | ({f"{name}.alpha": np.float32(alpha)} if alpha else {})


CASES = {
    "kohya": unet(f"{MIDDLE}.attn2.to_k", width=22, outputs=16)
    | unet("label_emb.0.2", width=32)
    | unet("output_blocks.0.0.emb_layers.1", width=32, outputs=16)
    | te(Q_PROJ, "1")
    | te(OUT_PROJ, "1")
    | te(Q_PROJ, "2")
    | te(OUT_PROJ, "2")
    | te("text_projection", "2", outputs=9),
    "kohya, diffusers' names": unet("add_embedding.linear_1", width=45, outputs=32)
    | unet("add_embedding.linear_2", width=32)
    | unet(TO_Q, width=16)
    | unet(FF, width=64, outputs=16),
    "kohya, both names": unet(f"{MIDDLE}.attn1.to_q", width=16)
    | unet("time_embed.2", width=32)
    | unet(TO_Q, width=16),
    "kohya, no output": unet(TO_Q, width=16)
    | te(Q_PROJ, "2")
    | te(K_PROJ, "2")
    | te(OUT_PROJ, "1"),
    "PEFT": peft(f"unet.{TO_Q}", 16)
    | peft(f"text_encoder.{Q_PROJ}", 12)
    | peft(f"text_encoder_2.{Q_PROJ}", 10),
    "ComfyUI": peft(f"diffusion_model.{MIDDLE}.attn1.to_q", 16)
    | peft(f"text_encoders.clip_g.transformer.{Q_PROJ}", 10)
    | peft(f"unet.{TO_Q}", 16),
}


@pytest.mark.filterwarnings("ignore:::diffusers|peft")
@pytest.mark.parametrize("case", CASES)
def test_diffusers_loads_what_is_said(tmp_path, case):
    content = CASES[case]
    left_out = opened(tmp_path, content, family="sdxl")["diffusers"].not_loaded
    found, _ = loaded_by_diffusers(tmp_path, tiny.build_xl)
    assert not_there(content, found) == set(left_out)


def files_of_all_layers(reference):
    """Every layer of SDXL in each spelling."""
    paths = reference.hf_unet_modules("sdxl")
    original = [reference.hf_to_ldm(path, "sdxl") for path in paths]
    texts = {1: reference.text_modules(12), 2: [*reference.text_modules(32), "text_projection"]}
    inside = [(number, path) for number, own in texts.items() for path in own]
    of_text = [flat(f"lora_te{number}_", path) for number, path in inside]
    named = [f"text_encoder{'_2' * (number == 2)}.{path}" for number, path in inside]
    comfy = [f"text_encoders.clip_{' lg'[number]}.transformer.{path}" for number, path in inside]
    return {
        "kohya": [*(flat("lora_unet_", path) for path in original), *of_text],
        "diffusers' names": [*(flat("lora_unet_", path) for path in paths), *of_text],
        "te": [flat("lora_te_", path) for path in texts[1]],
        "PEFT": [*(f"unet.{path}" for path in paths), *named],
        "ComfyUI": [*(f"diffusion_model.{path}" for path in original), *comfy],
    }


def comfyuis_names(reference):
    """As comfy/lora.py's model_lora_keys_unet and _clip for SDXL."""
    names = set()
    for path in reference.hf_unet_modules("sdxl"):
        original = reference.hf_to_ldm(path, "sdxl")
        names |= {flat("lora_unet_", original), f"diffusion_model.{original}"}
        names.add(flat("lora_unet_", path))
        old = path.replace(".to_", ".processor.to_")
        old = old[:-2] if old.endswith(".to_out.0") else old
        names |= {old, f"unet.{old}"}
    for path in reference.text_modules(12):
        names |= {flat("lora_te_", path), flat("lora_te1_", path), f"text_encoder.{path}"}
        names.add(f"text_encoders.clip_l.transformer.{path}")
    for path in reference.text_modules(32):
        names |= {flat("lora_te2_", path), f"text_encoder_2.{path}"}
        names.add(f"text_encoders.clip_g.transformer.{path}")
    return names | {"lora_te2_text_projection", "text_encoders.clip_g.transformer.text_projection"}


def a1111s_layer(name):
    """As convert_diffusers_name_to_compvis and load_network, for SDXL's names that end there."""
    for pattern, form in (
        (r"lora_unet_conv_in", "input_blocks_0_0"),
        (r"lora_unet_conv_out", "out_2"),
        (r"lora_unet_time_embedding_linear_(\d)", lambda m: f"time_embed_{int(m[1]) * 2 - 2}"),
        (
            r"lora_unet_down_blocks_(\d)_downsamplers_0_conv",
            lambda m: f"input_blocks_{3 + 3 * int(m[1])}_0_op",
        ),
        (
            r"lora_unet_up_blocks_(\d)_upsamplers_0_conv",
            lambda m: f"output_blocks_{2 + 3 * int(m[1])}_{2 if int(m[1]) else 1}_conv",
        ),
        (
            r"lora_unet_down_blocks_(\d)_(attentions|resnets)_(\d)_(.+)",
            lambda m: _inside("input", 1, m),
        ),
        (
            r"lora_unet_up_blocks_(\d)_(attentions|resnets)_(\d)_(.+)",
            lambda m: _inside("output", 0, m),
        ),
        (
            r"lora_unet_mid_block_(attentions|resnets)_(\d)_(.+)",
            lambda m: (
                f"middle_block_{1 if m[1] == 'attentions' else 2 * int(m[2])}_{_end(m[1], m[3])}"
            ),
        ),
        (r"lora_unet_(.+)", lambda m: m[1]),
    ):
        if found := re.fullmatch(pattern, name):
            return form if isinstance(form, str) else form(found)
    return name


def _inside(way, first, m):
    place = first + 3 * int(m[1]) + int(m[3])
    return f"{way}_blocks_{place}_{int(m[2] == 'attentions')}_{_end(m[2], m[4])}"


def _end(kind, layer):
    ends = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    return (
        (ends | {"conv_shortcut": "skip_connection"}).get(layer, layer)
        if kind == "resnets"
        else layer
    )


@pytest.mark.parametrize("case", ["kohya", "diffusers' names", "te", "PEFT", "ComfyUI"])
def test_web_uis_by_their_own_maps(tmp_path, reference, case):
    """Trap 25: queries, keys, values and outputs of PEFT's files are not read in ComfyUI."""
    names = files_of_all_layers(reference)[case]
    content = {key: t for name in names for key, t in pair(name, 2).items()}
    if case in ("PEFT", "ComfyUI"):
        content = {key: t for name in names for key, t in peft(name, 2).items()}
    opening = opened(tmp_path, content, family="sdxl")
    bases = {
        key: next(key.removesuffix(end) for end in COMFYUIS_ENDS if key.endswith(end))
        for key in content
    }
    theirs = comfyuis_names(reference)
    missing = {key for key, base in bases.items() if base not in theirs}
    assert set(opening["ComfyUI"].not_loaded) == missing
    if case == "PEFT":
        assert sum("unet" in key and "lora_A" in key for key in missing) == 560
    layers = {
        reference.hf_to_ldm(path, "sdxl").replace(".", "_")
        for path in reference.hf_unet_modules("sdxl")
    }
    layers |= {flat("lora_te1_", path) for path in reference.text_modules(12)}
    layers |= {flat("lora_te2_", path) for path in reference.text_modules(32)}
    unread = {key for key in content if a1111s_layer(key.split(".")[0]) not in layers}
    assert set(opening["A1111"].not_loaded) == unread
    if case == "diffusers' names":
        assert {key.split(".")[0].removeprefix("lora_unet_") for key in unread} == {
            "add_embedding_linear_1",
            "add_embedding_linear_2",
            "up_blocks_0_upsamplers_0_conv",
            "lora_te2_text_projection",
        }


def test_a1111_wants_all_of_an_attention_of_the_second_encoder(tmp_path):
    """Trap 12."""
    content = {}
    for end in ("q", "k", "v", "out"):
        content |= te(f"{TEXT}.{end}_proj", "1") | te(f"{TEXT}.{end}_proj", "2")
    assert not opened(tmp_path, content, family="sdxl")["A1111"].not_loaded
    missing = {key: tensor for key, tensor in content.items() if "v_proj" not in key}
    left_out = opened(tmp_path, missing, family="sdxl")["A1111"].not_loaded
    assert set(left_out) == {key for key in missing if "te2" in key}
    assert set(left_out.values()) == {
        "attention of an OpenCLIP text encoder: read if q, k, v and out are all there"
    }
