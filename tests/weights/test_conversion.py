"""Folder and single file, there and back, bit for bit."""

import logging

import ml_dtypes
import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.weights import safetensors
from flax_sd.weights.conversion import Conversion
from flax_sd.weights.diffusers_folder import component_tensors, read_json
from flax_sd.weights.ldm.leftovers import FILE
from flax_sd.weights.model_files import ModelFiles
from flax_sd.weights.safetensors import TensorFile
from tests.weights.ldm.conftest import singles

__all__ = ["singles"]
FAMILIES = ("sd1", "sd2", "sdxl")
OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}


def convert(source, out, dtype=None, prediction=None, **options):
    files = ModelFiles(source, **options)
    Conversion(files, files.scheduler(prediction, zero_snr=False), dtype).write(out)
    return out


def raw(path):
    """Dtypes, shapes and bytes."""
    file = TensorFile(path)
    return {key: (file.dtype(key), file.shape(key), file[key].tobytes()) for key in file}


def written(folder):
    """Of every component of a folder."""
    return {
        name: {
            key: (tensor.dtype, tensor.shape, tensor.tobytes())
            for key, tensor in component_tensors(folder, name).items()
        }
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
        if (folder / name).is_dir()
    }


def original(singles, family, path, **further):
    """A file with what original files have beside the components."""
    tensors = dict(TensorFile(singles / f"{family}.safetensors"))
    if prefix := CLIP.get(family):
        tensors[f"{prefix}text_model.embeddings.position_ids"] = np.arange(77)[None]
    if prefix := OPEN_CLIP.get(family):
        tensors[f"{prefix}logit_scale"] = np.array(4.6055, np.float32)
        if family == "sd2":
            for key in [key for key in tensors if ".resblocks.2." in key]:
                tensors[key.replace(".2.", ".23.")] = tensors[key] + 1
            tensors[f"{prefix}text_projection"] = np.full((12, 12), 3, np.float32)
    tensors["model_ema.decay"] = np.array(0.999, np.float32)
    safetensors.write(path, tensors | further, {"modelspec.title": "mine", "author": "me"})
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_from_a_file_to_a_folder_and_back(singles, family, tmp_path):
    """Traps 1, 2, 3, 5 and 23: the same tensors, marks, and what no component has."""
    marks = {"v_pred": np.zeros(0, ml_dtypes.bfloat16), "alphas_cumprod": np.ones(5)}
    file = original(singles, family, tmp_path / "a.safetensors", **marks)
    folder = convert(file, tmp_path / "folder", config=singles / family)
    assert raw(convert(folder, tmp_path / "b.safetensors")) == raw(file)
    metadata = TensorFile(tmp_path / "b.safetensors").metadata
    assert (metadata["modelspec.title"], metadata["author"]) == ("mine", "me")
    assert metadata["modelspec.prediction_type"] == "v"
    assert raw(convert(file, tmp_path / "c.safetensors", config=singles / family)) == raw(file)


@pytest.mark.parametrize("family", FAMILIES)
def test_from_a_folder_to_a_file_and_back(singles, family, tmp_path):
    """Traps 1, 2, 3 and 23."""
    folder = singles / family
    file = convert(folder, tmp_path / "a.safetensors")
    again = convert(file, tmp_path / "folder", config=folder)
    assert written(again) == written(folder)
    assert read_json(again / "unet/config.json") == ModelFiles(folder).config("unet")
    assert raw(convert(again, tmp_path / "b.safetensors")) == raw(file)


def test_numbers_of_eight_bits_stay(singles, tmp_path):
    """Trap 24."""
    tensors = dict(TensorFile(singles / "sdxl.safetensors"))
    for i, key in enumerate(sorted(tensors)):
        if key.endswith("weight") and tensors[key].ndim == 2:
            kind = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)[i % 2]
            tensors[key] = tensors[key].astype(kind)
    tensors.update(
        (key, tensor.astype(ml_dtypes.bfloat16))
        for key, tensor in tensors.items()
        if key.endswith("bias")
    )
    prefix = OPEN_CLIP["sdxl"]
    tensors[f"{prefix}logit_scale"] = np.array(4.6, np.float32)
    for key in [key for key in tensors if key.endswith("text_projection")]:
        tensors[key] = tensors[key].astype(ml_dtypes.float8_e4m3fn)
    safetensors.write(tmp_path / "a.safetensors", tensors)
    folder = convert(tmp_path / "a.safetensors", tmp_path / "f", config=singles / "sdxl")
    back = convert(folder, tmp_path / "b.safetensors")
    assert raw(back) == raw(tmp_path / "a.safetensors")
    half = TensorFile(convert(back, tmp_path / "c.safetensors", "float16", config=folder))
    assert {half.dtype(key).name for key in half} == {"float16"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_dtype(singles, tmp_path, dtype):
    """Whole numbers and the noise schedule stay as they are."""
    schedule = {"alphas_cumprod": np.linspace(1, 0, 5, dtype=np.float32)}
    file = original(singles, "sd1", tmp_path / "a.safetensors", **schedule)
    out = TensorFile(convert(file, tmp_path / "b.safetensors", dtype, config=singles / "sd1"))
    before, kinds = TensorFile(file), {key: out.dtype(key).name for key in out}
    ids = f"{CLIP['sd1']}text_model.embeddings.position_ids"
    assert kinds.pop(ids) == "int64" and kinds.pop("alphas_cumprod") == "float32"
    assert set(kinds.values()) == {dtype}
    for key in kinds:
        np.testing.assert_array_equal(out[key], before[key].astype(out.dtype(key)))
    folder = convert(file, tmp_path / "f", dtype, config=singles / "sd1")
    assert written(folder) == written(convert(out.path, tmp_path / "g", config=singles / "sd1"))


@pytest.mark.parametrize("kind", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_damaged_position_ids_are_mended(singles, tmp_path, kind):
    """Trap 5: fp16 files in circulation have other numbers there."""
    name = f"{CLIP['sdxl']}text_model.embeddings.position_ids"
    ids = {name: (np.arange(77)[None] * 1.01).astype(kind)}
    file = original(singles, "sdxl", tmp_path / "a.safetensors", **ids)
    for out in (
        TensorFile(convert(file, tmp_path / "b.safetensors", config=singles / "sdxl"))[name],
        component_tensors(convert(file, tmp_path / "f", config=singles / "sdxl"), "text_encoder")[
            "text_model.embeddings.position_ids"
        ],
    ):
        assert out.dtype == np.int64 and np.array_equal(out, np.arange(77)[None])


def test_position_ids_of_an_old_folder_come_back(singles, tmp_path):
    """Trap 5: transformers' old files have them in OpenCLIP too, which has no such tensor."""
    files = ModelFiles(singles / "sdxl")
    folder = convert(singles / "sdxl", tmp_path / "old")
    key = "text_model.embeddings.position_ids"
    for name in ("text_encoder", "text_encoder_2"):
        tensors = {**files.tensors(name), key: np.arange(77)[None]}
        safetensors.write(folder / name / "model.safetensors", tensors)
    file = convert(folder, tmp_path / "a.safetensors")
    assert written(convert(file, tmp_path / "new", config=folder)) == written(folder)


def test_the_mean_in_place_of_the_last_weights(singles, tmp_path):
    """Trap 24: the other one is not kept."""
    whole = TensorFile(singles / "sd1.safetensors")
    tensors, prefix = dict(whole), "model.diffusion_model."
    for key in [key for key in whole if key.startswith(prefix)]:
        name = key.removeprefix("model.").replace(".", "")
        tensors[f"model_ema.{name}"] = whole[key] + 1
    safetensors.write(tmp_path / "a.safetensors", tensors)
    kept = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert raw(kept) == raw(tmp_path / "a.safetensors")
    mean = TensorFile(convert(kept, tmp_path / "c.safetensors", ema=True))
    assert mean.keys() == whole.keys()
    assert np.array_equal(mean[f"{prefix}out.2.bias"], whole[f"{prefix}out.2.bias"] + 1)


def test_the_dialects_become_the_names_that_all_read(singles, tmp_path):
    """Traps 4 and 23."""
    whole = dict(TensorFile(singles / "sd1.safetensors"))
    odd = {
        key.replace("transformer.text_model.", "transformer.").replace(
            "first_stage_model", "vae"
        ): t
        for key, t in whole.items()
    }
    odd["vae.loss.logvar"] = np.array(0, np.float32)
    safetensors.write(tmp_path / "a.safetensors", odd)
    made = raw(convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors"))
    del made["first_stage_model.loss.logvar"]
    assert made == raw(singles / "sd1.safetensors")


def test_broken_numbers(singles, tmp_path, caplog):
    """Trap 6: what is never read is kept as it is, with a warning."""
    whole = dict(TensorFile(singles / "sdxl.safetensors"))
    last = f"{CLIP['sdxl']}text_model.encoder.layers.2.mlp.fc1.weight"
    unused = {**whole, last: np.full_like(whole[last], np.nan)}
    safetensors.write(tmp_path / "a.safetensors", unused)
    with caplog.at_level(logging.WARNING, "flax_sd"):
        out = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (
        np.isnan(TensorFile(out)[last]).all() and "layers.2.mlp.fc1.weight has num" in caplog.text
    )
    used = {**whole, "model.diffusion_model.out.2.bias": np.full(4, np.inf, np.float32)}
    safetensors.write(tmp_path / "a.safetensors", used)
    for out in (tmp_path / "c.safetensors", tmp_path / "c"):
        with pytest.raises(UserError, match="unet: conv_out.bias has numbers that are NaN or inf"):
            convert(tmp_path / "a.safetensors", out, config=singles / "sdxl")
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "a.safetensors",
            "b.safetensors",
        ]


def test_numbers_too_large_for_a_dtype(singles, tmp_path):
    whole = dict(TensorFile(singles / "sd1.safetensors"))
    whole["model.diffusion_model.out.2.bias"] = np.full(4, 1e6, np.float32)
    safetensors.write(tmp_path / "a.safetensors", whole)
    with pytest.raises(UserError, match="conv_out.bias has numbers that are too large for float16"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "float16")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "bfloat16")


def test_a_folder_that_was_no_file_has_no_leftovers(singles, tmp_path):
    out = convert(singles / "sd1", tmp_path / "f", "float16")
    assert not (out / FILE).exists() and written(out).keys() == written(singles / "sd1").keys()
    assert read_json(out / "text_encoder/config.json")["dtype"] == "float16"


def test_what_a_file_has_no_place_for(singles, tmp_path):
    folder = convert(singles / "sd1", tmp_path / "f")
    place = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = dict(TensorFile(place))
    cond = {"time_embedding.cond_proj.weight": np.ones((2, 2), np.float32)}  # of an LCM: trap 16
    safetensors.write(tmp_path / "x.safetensors", tensors | cond)
    (tmp_path / "x.safetensors").replace(place)
    with pytest.raises(UserError, match="no place for time_embedding.cond_proj.weight of the unet"):
        convert(folder, tmp_path / "a.safetensors")
    lacking = {k: t for k, t in ModelFiles(singles / "sd2").tensors("text_encoder").items()}
    del lacking["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    folder = convert(singles / "sd2", tmp_path / "g")
    safetensors.write(folder / "text_encoder/model.safetensors", lacking)
    with pytest.raises(
        UserError, match="query, key and value of .*1.attn.in_proj_bias are not all"
    ):
        convert(folder, tmp_path / "a.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_schedule_that_ends_in_pure_noise_is_read_back(singles, family, tmp_path):
    """Trap 17: with no folder of configs beside the file."""
    files = ModelFiles(singles / family)
    scheduler = files.scheduler("v_prediction", zero_snr=True)
    Conversion(files, scheduler).write(tmp_path / "a.safetensors")
    read = ModelFiles(tmp_path / "a.safetensors").scheduler_config
    for key in ("prediction_type", "rescale_betas_zero_snr", "timestep_spacing"):
        assert read[key] == scheduler[key]
