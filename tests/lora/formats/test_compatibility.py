"""What other programs load: diffusers itself, and ComfyUI's and A1111's key maps made anew."""

import numpy as np
import pytest

from tests.lora.formats.other_programs import (
    ATTENTION,
    COMFYUIS_ENDS,
    FF,
    K_PROJ,
    OUT_PROJ,
    Q_PROJ,
    RANK,
    TEXT,
    TO_K,
    TO_OUT,
    TO_Q,
    dotted,
    flat,
    loaded_by_diffusers,
    not_there,
    opened,
    pair,
    peft,
    tensors,
    text,
    unet,
)

OLD = (".processor.to_q_lora.down.weight", ".processor.to_q_lora.up.weight")
OF_DIFFUSERS = (".lora.down.weight", ".lora.up.weight")
OF_TEXT = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
MAGNITUDE = ".lora_magnitude_vector"
CASES = {
    "kohya": unet(TO_Q) | unet(FF, width=32, outputs=8) | text(Q_PROJ) | text(OUT_PROJ),
    "kohya with te1": unet(TO_Q) | text(Q_PROJ, prefix="lora_te1_") | text(OUT_PROJ),
    "kohya, no output": unet(TO_Q) | text(Q_PROJ) | text(K_PROJ),
    "kohya, no such layer": unet(TO_Q) | unet("nowhere"),
    "kohya, original names": unet("middle_block.1.proj_in") | unet("time_embed.0", outputs=32),
    "kohya's DoRA": unet(TO_Q) | {flat("lora_unet_", TO_Q) + ".dora_scale": tensors(8, 1)},
    "kohya and PEFT": unet(TO_Q) | peft(f"unet.{TO_K}"),
    "PEFT": peft(f"unet.{TO_Q}") | peft(f"text_encoder.{Q_PROJ}", 12),
    "PEFT without text_model": peft(f"text_encoder.{Q_PROJ.removeprefix('text_model.')}", 12),
    "PEFT without unet": peft(TO_Q) | peft(f"unet.{TO_K}"),
    "PEFT's own": peft(f"base_model.model.{TO_Q}") | peft(f"unet.{TO_K}"),
    "PEFT with an adapter's name": dotted(
        f"unet.{TO_Q}", ".lora_A.default.weight", ".lora_B.default.weight"
    ),
    "PEFT without weight": dotted(f"unet.{TO_Q}", ".lora_A", ".lora_B"),
    "PEFT beside an embedding": peft(f"unet.{TO_Q}") | {"<s1>": tensors(12)},
    "PEFT's DoRA": peft(f"unet.{TO_Q}") | {f"unet.{TO_Q}{MAGNITUDE}": tensors(8)},
    "PEFT's DoRA of text": peft(f"text_encoder.{Q_PROJ}", 12)
    | {f"text_encoder.{Q_PROJ}{MAGNITUDE}.weight": tensors(12)},
    "PEFT's DoRA of text, bare": peft(f"text_encoder.{Q_PROJ}", 12)
    | {f"text_encoder.{Q_PROJ}{MAGNITUDE}": tensors(12)},
    "attention processors": dotted(f"unet.{ATTENTION}", *OLD),
    "attention processors without unet": dotted(ATTENTION, *OLD),
    "lora.down": dotted(f"unet.{TO_OUT}", *OF_DIFFUSERS)
    | dotted(f"text_encoder.{Q_PROJ}", *OF_TEXT, 12),
    "old text": dotted(f"text_encoder.{TEXT}.to_q_lora", ".down.weight", ".up.weight", 12)
    | peft(f"unet.{TO_Q}"),
}


@pytest.mark.filterwarnings("ignore:::diffusers|peft")
@pytest.mark.parametrize("case", CASES)
def test_diffusers_loads_what_is_said(tmp_path, case):
    content = CASES[case]
    left_out = opened(tmp_path, content, family="sd1")["diffusers"].not_loaded
    found, _ = loaded_by_diffusers(tmp_path)
    assert not_there(content, found) == set(left_out)


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys:RuntimeWarning")
def test_diffusers_takes_one_alpha_for_attention_and_text(tmp_path):
    alphas = {TO_Q: 1, TO_K: 4, TO_OUT: 4, FF: 8, Q_PROJ: 3, K_PROJ: 2, OUT_PROJ: 2}
    content = {}
    for path, alpha in alphas.items():
        of_text = path.startswith("text_model")
        content |= text(path, alpha) if of_text else unet(path, alpha, 8, 32 if path == FF else 8)
    left_out = opened(tmp_path, content)["diffusers"].not_loaded
    _, scales = loaded_by_diffusers(tmp_path)
    wrong = {
        path
        for path, alpha in alphas.items()
        if scales[path.removeprefix("text_model.")] != alpha / RANK
    }
    assert wrong == {TO_Q, Q_PROJ}
    assert set(left_out) == {
        f"{flat('lora_unet_', TO_Q)}.alpha",
        f"{flat('lora_te_', Q_PROJ)}.alpha",
    }
    assert "4 is taken" in left_out[f"{flat('lora_unet_', TO_Q)}.alpha"]


def comfyuis_names(reference):
    """As comfy/lora.py's model_lora_keys_unet and _clip for SD 1.5."""
    names = set()
    for path in reference.hf_unet_modules("sd15"):
        names |= {flat("lora_unet_", path), flat("lora_unet_", reference.hf_to_ldm(path, "sd15"))}
        old = path.replace(".to_", ".processor.to_")
        old = old[:-2] if old.endswith(".to_out.0") else old
        names |= {old, f"unet.{old}"}
    for path in reference.text_modules(12):
        names |= {flat("lora_te_", path), flat("lora_te1_", path), f"text_encoder.{path}"}
    return names


def files_of_all_layers(reference):
    """Every layer of SD 1.5 in every spelling, as (UNet, text encoder)."""
    layers = reference.hf_unet_modules("sd15"), reference.text_modules(12)
    attention = [path for path in layers[0] if "attn" in path]
    kohya = {}
    for prefix, paths in zip(("lora_unet_", "lora_te_"), layers, strict=True):
        for path in paths:
            name = flat(prefix, path)
            kohya |= pair(name, 2) | {f"{name}.alpha": np.float32(1), f"{name}.dora_scale": [[1.0]]}
    named = [*(f"unet.{p}" for p in layers[0]), *(f"text_encoder.{p}" for p in layers[1])]
    files = {"kohya": kohya, "te1": {}, "PEFT": {}, "old": {}, "lora.down": {}}
    for path in layers[1]:
        files["te1"] |= pair(flat("lora_te1_", path), 2)
    for name in named:
        files["PEFT"] |= peft(name, 2) | {f"{name}{MAGNITUDE}": tensors(2)}
        files["lora.down"] |= dotted(name, *(OF_TEXT if "text" in name else OF_DIFFUSERS), 2)
    for path in attention:
        parent, _, last = path.removesuffix(".0").rpartition(".")
        name = f"{parent}.processor.{last}_lora"
        ends = (".down.weight", ".up.weight")
        files["old"] |= dotted(name, *ends, 2) | dotted(f"unet.{name}", *ends, 2)
    files["old"] = {
        k: t for i, (k, t) in enumerate(files["old"].items()) if i // 2 % 2 == i // 4 % 2
    }
    return files


@pytest.mark.parametrize("case", ["kohya", "te1", "PEFT", "old", "lora.down"])
def test_web_uis_by_their_own_maps(tmp_path, reference, case):
    content = files_of_all_layers(reference)[case]
    opening = opened(tmp_path, {k: np.asarray(t, np.float32) for k, t in content.items()})
    names = comfyuis_names(reference)
    bases = {
        k: next((k.removesuffix(e) for e in COMFYUIS_ENDS if k.endswith(e)), "") for k in content
    }
    assert set(opening["ComfyUI"].not_loaded) == {
        k for k, base in bases.items() if base not in names
    }
    theirs = {name for name in names if "." not in name}
    unread = {k for k in content if k.split(".")[0] not in theirs or k.endswith(".dora_scale")}
    assert set(opening["A1111"].not_loaded) == unread
    if case == "PEFT":  # as counted for whole files
        layers = {k for k in opening["ComfyUI"].not_loaded if k.endswith("lora_A.weight")}
        assert len(layers) == 128


def test_a1111_wants_all_of_an_attention_of_sd2(tmp_path):
    whole = {p for end in ("q", "k", "v", "out") for p in [f"{TEXT}.{end}_proj"]}
    content = {}
    for path in whole:
        content |= text(path)
    assert not opened(tmp_path, content, family="sd2")["A1111"].not_loaded
    missing = {k: t for k, t in content.items() if "v_proj" not in k}
    assert set(opened(tmp_path, missing, family="sd2")["A1111"].not_loaded) == set(missing)
    assert not opened(tmp_path, missing)["A1111"].not_loaded


def test_te1_is_not_a1111s_name_of_sd2(tmp_path):
    content = CASES["kohya with te1"]
    left_out = opened(tmp_path, content, family="sd2")["A1111"].not_loaded
    named = {key for key, why in left_out.items() if why.startswith("the text encoder as te1")}
    assert named == {key for key in content if "te1" in key}
    assert not opened(tmp_path, content, family="sd1")["A1111"].not_loaded


def test_a_dora_is_remarked_on(tmp_path):
    assert "‖W‖" in opened(tmp_path, CASES["kohya's DoRA"])["ComfyUI"].remark
    assert not opened(tmp_path, CASES["kohya"])["ComfyUI"].remark
