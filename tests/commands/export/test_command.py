import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from diffusers.utils import logging as diffusers_logging

from flax_sd import StableDiffusion
from flax_sd.cli import export as command
from flax_sd.lora.formats import kohya
from flax_sd.lora.formats.read import read
from flax_sd.weights import hub
from flax_sd.weights.diffusers_folder import component_files, read_json
from flax_sd.weights.model_files import ModelFiles
from flax_sd.weights.safetensors import TensorFile
from tests import tiny
from tests.parity import NETWORK, assert_close, randomise
from tests.random_loras import random_lora, write_run

DRAW = {"num_inference_steps": 2, "seed": 3, "height": 40, "width": 24, "output": "latents"}


@pytest.fixture(scope="module")
def cat(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cat"
    write_run(folder, random_lora(model), model)
    return folder


def weights(folder, component="unet"):
    file = TensorFile(component_files(folder, component)[0])
    return {key: np.asarray(file[key]) for key in file}


@pytest.mark.slow
def test_the_merged_model_draws_what_the_lora_does(cat, model, tmp_path):
    out = tmp_path / "merged"
    assert command([str(cat), "--to", "merged", "--out", str(out), "--strength", "0.8"]) == 0
    attached, merged = StableDiffusion.load(model), StableDiffusion.load(out)
    before = attached.generate("a cat", **DRAW)
    attached.add_lora(cat / "lora.safetensors", 0.8)
    image = merged.generate("a cat", **DRAW)
    assert np.abs(image - before).max() > 0.1
    assert_close(image, attached.generate("a cat", **DRAW), NETWORK)
    options = {"num_inference_steps": 2, "height": 40, "width": 24}
    assert_close(image, tiny.draw(tiny.load(out), ["a cat"], [""], [3], **options), NETWORK)


@pytest.mark.slow
def test_the_merged_weights_are_the_sum(cat, model, tmp_path):
    """W + strength · alpha / rank · up @ down, rounded once; the rest as it was."""
    for dtype in ("auto", "float16"):
        out = tmp_path / dtype
        args = [str(cat), "--to", "diffusers", "--out", str(out), "--strength", "2"]
        assert command([*args, "--dtype", dtype]) == 0
        kind = np.float32 if dtype == "auto" else np.float16
        adapters = random_lora(model)["unet"]
        old, new = weights(model), weights(out)
        assert old.keys() == new.keys()
        for key, before in old.items():
            adapter = adapters.get(key.removesuffix(".weight"))
            want = before if adapter is None else before + 2 * adapter.delta()
            close = 1e-6 if dtype == "auto" else 1e-3
            np.testing.assert_allclose(new[key], want.astype(kind), rtol=close, atol=close)
            assert new[key].dtype == kind
        for key, before in weights(model, "vae").items():
            np.testing.assert_array_equal(weights(out, "vae")[key], before.astype(kind))


@pytest.mark.slow
def test_diffusers_reads_the_folder_without_a_remark(cat, tmp_path, caplog):
    out = tmp_path / "merged"
    command([str(cat), "--to", "merged", "--out", str(out), "--dtype", "float16"])
    assert read_json(out / "text_encoder" / "config.json")["dtype"] == "float16"
    diffusers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        pipeline = tiny.load(out)
    diffusers_logging.disable_propagation()
    assert not caplog.records
    assert len(list(pipeline.unet.parameters())) == len(weights(out))


@pytest.fixture
def full(model, tmp_path):
    """The folder of a run that trained a whole model."""
    run = tmp_path / "full"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"train": {"mode": "full"}}))
    (run / "model").symlink_to(model)
    return run


def test_a_trained_model_is_copied(full, model, tmp_path):
    out = tmp_path / "out"
    assert command([str(full), "--to", "diffusers", "--out", str(out)]) == 0
    for component in ("unet", "vae", "text_encoder"):
        old, new = weights(model, component), weights(out, component)
        assert {k.removeprefix("text_model.") for k in new} == {
            k.removeprefix("text_model.") for k in old
        }
        for key, tensor in new.items():
            before = old[key] if key in old else old[key.removeprefix("text_model.")]
            np.testing.assert_array_equal(tensor, before)


@pytest.mark.slow
def test_a_single_file(cat, model, tmp_path, capsys):
    """The merged weights of the folder, under the names of the original code."""
    file, folder = tmp_path / "a/cat.safetensors", tmp_path / "merged"
    for to, out in (("single-file", file), ("merged", folder)):
        args = [str(cat), "--to", to, "--out", str(out), "--strength", "2", "--dtype", "float16"]
        assert command(args) == 0
    assert command([str(cat), "--to", "single-file", "--out", str(file)]) == 0  # a second time
    header = TensorFile(file).metadata
    assert header["modelspec.title"] == "cat" and header["flax_sd_export"] == "single-file"
    assert command([str(cat), "--to", "single-file", "--out", str(file), *args[5:]]) == 0
    one, whole = ModelFiles(file, config=model), ModelFiles(folder)
    for component in ("unet", "vae"):
        read, wanted = one.tensors(component), whole.tensors(component)
        assert read.keys() == wanted.keys()
        for key in read:
            np.testing.assert_array_equal(read[key], wanted[key], err_msg=f"{component}.{key}")
    drawn = StableDiffusion.load(file, config=model).generate("a cat", **DRAW)
    np.testing.assert_array_equal(drawn, StableDiffusion.load(folder).generate("a cat", **DRAW))
    capsys.readouterr()
    assert command([str(cat), "--to", "single-file", "--out", str(tmp_path / "b")]) == 2
    assert "b should end in .safetensors: --to single-file writes a file" in capsys.readouterr().err


def test_a_trained_model_in_a_single_file(full, model, tmp_path):
    out = tmp_path / "out.safetensors"
    assert command([str(full), "--to", "single-file", "--out", str(out)]) == 0
    files = ModelFiles(out, config=model)
    for component in ("unet", "vae", "text_encoder"):
        old, new = ModelFiles(model).tensors(component), files.tensors(component)
        assert old.keys() == new.keys()
        assert all(np.array_equal(new[key], old[key]) for key in old)


def test_lora_files(cat, tmp_path, capsys):
    for to in ("kohya", "peft"):
        out = tmp_path / f"{to}.safetensors"
        assert command([str(cat), "--to", to, "--out", str(out)]) == 0
        assert f"written: {out}" in capsys.readouterr().out.replace("\n", "")


def read_lora(path, model):
    """Its adapters by component and layer."""
    files = ModelFiles(model)
    return read(path, {name: files.abstract(name) for name in ("unet", "text_encoder")})


@pytest.mark.parametrize("to", ["kohya", "peft"])
def test_a_lora_file_is_as_the_flags_say(cat, model, tmp_path, to):
    out = tmp_path / "a.safetensors"
    flags = ["--strength", "-0.5", "--dtype", "float16", "--bake", "4"]
    assert command([str(cat), "--to", to, "--out", str(out), *flags]) == 0
    file, back = TensorFile(out), read_lora(out, model)
    assert {file.dtype(key) for key in file if "alpha" not in key} == {np.dtype(np.float16)}
    for name, adapters in random_lora(model).items():
        for path, adapter in adapters.items():
            assert back[name][path].rank == 4  # 3 before it was baked
            assert_close(back[name][path].delta(), -0.5 * adapter.delta(), 2e-3)


def test_the_best_state_is_what_is_exported_if_it_is_asked_for(model, tmp_path):
    write_run(tmp_path / "cat", random_lora(model), model)
    best = tmp_path / "cat" / "lora_best.safetensors"
    kohya.write(best, random_lora(model, rank=5))
    args = [str(tmp_path / "cat"), "--to", "kohya", "--step", "best"]
    assert command([*args, "--out", str(tmp_path / "out.safetensors")]) == 0
    file, wanted = TensorFile(tmp_path / "out.safetensors"), TensorFile(best)
    assert {key: file[key].tobytes() for key in file} == {k: wanted[k].tobytes() for k in wanted}


def test_a_lone_file_is_read_with_the_model_that_is_named(cat, model, tmp_path, monkeypatch):
    lone, out, asked = tmp_path / "lone.safetensors", tmp_path / "out.safetensors", []
    shutil.copy(cat / "lora.safetensors", lone)
    monkeypatch.setattr(hub, "resolve", lambda *args: asked.append(args) or model)
    args = [str(lone), "--to", "peft", "--out", str(out), "--model", "org/sd"]
    assert command([*args, "--revision", "v2", "--variant", "fp16"]) == 0
    assert set(asked) == {("org/sd", "v2", "fp16")}
    twin, file = TensorFile(cat / "pytorch_lora_weights.safetensors"), TensorFile(out)
    assert {key: file[key].tobytes() for key in file} == {k: twin[k].tobytes() for k in twin}


@pytest.mark.slow
def test_variants_of_a_model_and_of_another_vae_are_read(tmp_path):
    half, vae, out = tmp_path / "half", tmp_path / "vae", tmp_path / "out"
    pipeline = tiny.build("sd1").to(torch.float16)
    pipeline.save_pretrained(half, variant="fp16")
    randomise(pipeline.vae, 7).save_pretrained(vae, variant="fp16")
    model = {"variant": "fp16", "vae": str(vae)}
    write_run(tmp_path / "cat", random_lora(half), half, model=model)
    args = [str(tmp_path / "cat"), "--to"]
    assert command([*args, "merged", "--out", str(out)]) == 0
    for component in ("unet", "vae", "text_encoder"):
        assert {tensor.dtype for tensor in weights(out, component).values()} == {np.dtype("f2")}
    kernel = weights(out, "vae")["decoder.conv_in.weight"]
    np.testing.assert_array_equal(kernel, pipeline.vae.decoder.conv_in.weight.detach().numpy())
    assert command([*args, "peft", "--bake", "3", "--out", str(tmp_path / "baked")]) == 0


@pytest.mark.parametrize(
    "to, message",
    [
        ("kohya", "trained the whole model, so there is no LoRA: use --to diffusers"),
        ("merged", "--strength is for a LoRA"),
    ],
)
def test_what_cannot_be_exported(model, tmp_path, capsys, to, message):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"train": {"mode": "full"}}))
    (tmp_path / "model").symlink_to(model)
    args = [str(tmp_path), "--to", to, "--out", str(tmp_path / "out"), "--strength", "2"]
    assert command(args) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_flags_without_effect_are_refused(tmp_path, capsys):
    config = {"train": {"mode": "textual_inversion"}, "tokens": {"names": {"<cat>": "cat"}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "learned_embeds.safetensors").touch()
    args = [str(tmp_path), "--to", "kohya", "--out", str(tmp_path / "out.safetensors")]
    idle = ["--model", "org/sd", "--revision", "v2", "--variant", "fp16"]
    assert command([*args, *idle, "--dtype", "float16"]) == 2
    error = capsys.readouterr().err
    for name in ("model", "revision", "variant"):
        assert f"--{name} is for a LoRA, and {tmp_path} trained none" in error
    assert "--dtype is for LoRAs and models: new tokens are written as they are" in error


def test_no_model_is_overwritten(cat, model, tmp_path, capsys):
    args = [str(cat), "--to", "merged", "--out"]
    assert command([*args, str(model)]) == 2
    assert "tiny-sd exists and is not an earlier export" in capsys.readouterr().err
    assert command([*args, str(tmp_path / "a.safetensors")]) == 2
    assert "--to merged writes a folder: --to single-file writes a model" in capsys.readouterr().err
    for _ in range(2):  # the second replaces an earlier export
        assert command([*args, str(tmp_path / "out")]) == 0


def test_weights_that_overflow_are_named(cat, tmp_path, capsys):
    args = [str(cat), "--to", "merged", "--out", str(tmp_path / "out"), "--strength", "1e7"]
    assert command([*args, "--dtype", "float16"]) == 2
    error = capsys.readouterr().err
    assert (
        "unet is not written" in error
        and "too large for the dtype" in error
        and "attn1.to_q.weight" in error
    )
    assert not (tmp_path / "out").exists()


def test_unknown_formats(capsys):
    assert command(["runs/cat", "--to", "onnx", "--out", "x"]) == 2
    assert "merged" in capsys.readouterr().err
