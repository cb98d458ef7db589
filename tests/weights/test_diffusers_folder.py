"""Diffusers folders in every layout that people have, read and written."""

import errno
import json
import os
import pathlib

import diffusers
import numpy as np
import pytest
import transformers

from flax_sd.errors import UserError
from flax_sd.weights import diffusers_folder as folders
from flax_sd.weights import safetensors
from tests.parity import numpy_state, randomise

VAE = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 2,
}
TEXT = {
    "vocab_size": 99,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def vae():
    return randomise(diffusers.AutoencoderKL(**VAE))


@pytest.fixture(scope="module")
def text_encoder():
    return randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)))


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_files_that_diffusers_wrote(tmp_path, vae, variant, max_shard_size):
    vae.save_pretrained(tmp_path / "vae", variant=variant, max_shard_size=max_shard_size)
    assert ("index" in " ".join(os.listdir(tmp_path / "vae"))) == (max_shard_size == "20KB")
    assert_same(folders.component_tensors(tmp_path, "vae", variant), numpy_state(vae))
    assert_same(folders.component_tensors(tmp_path / "vae", ".", variant), numpy_state(vae))


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "2KB"])
def test_files_that_transformers_wrote(tmp_path, text_encoder, variant, max_shard_size):
    path = tmp_path / "text_encoder"
    text_encoder.save_pretrained(path, variant=variant, max_shard_size=max_shard_size)
    read = folders.component_tensors(tmp_path, "text_encoder", variant)
    expected = {f"text_model.{key}": value for key, value in numpy_state(text_encoder).items()}
    assert_same(read, expected)


def test_clip_keys_with_and_without_prefix(text_encoder):
    bare = numpy_state(text_encoder) | {"text_projection.weight": np.zeros((3, 8))}
    prefixed = folders.current_names(bare)
    assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in prefixed
    assert "text_projection.weight" in prefixed
    assert_same(folders.current_names(prefixed), prefixed)


def test_old_names_of_the_vaes_attention(tmp_path, vae):
    new = numpy_state(vae)
    back = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = dict(new)
    for key in new:
        for now, then in back.items():
            if f"attentions.0.{now}." in key:
                old[key.replace(now, then)] = old.pop(key)
    assert len(old.keys() - new.keys()) == 16
    assert_same(folders.current_names(old), new)


def test_the_variant_is_taken_where_there_is_one(tmp_path):
    names = ["model.safetensors", "model.fp16.safetensors"]
    assert folders.weight_file(names, None, "x") == "model.safetensors"
    assert folders.weight_file(names, "fp16", "x") == "model.fp16.safetensors"
    assert folders.weight_file(names[:1], "fp16", "x") == "model.safetensors"
    with pytest.raises(UserError, match=r"x holds model\.fp16\.safetensors, .* name the variant"):
        folders.weight_file(names[1:], None, "x")


def test_a_missing_shard_is_named(tmp_path, vae):
    vae.save_pretrained(tmp_path / "vae", max_shard_size="20KB")
    gone = sorted((tmp_path / "vae").glob("*-00002-*"))[0]
    gone.unlink()
    with pytest.raises(UserError, match=f"vae lacks shards that .*index.json names: {gone.name}"):
        folders.component_tensors(tmp_path, "vae")


@pytest.mark.parametrize("index", [{}, {"weight_map": {"w": "../x.safetensors"}}, []])
def test_an_index_that_makes_no_sense_is_refused(tmp_path, index):
    (tmp_path / "vae").mkdir()
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="index.json (has no weight_map|holds list)"):
        folders.component_tensors(tmp_path, "vae")


def test_pickles_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.bin, .*save_pretrained\(folder, safe_serial"):
        folders.component_tensors(tmp_path, "unet")
    with pytest.raises(UserError, match="has no folder vae, which a diffusers model has"):
        folders.component_tensors(tmp_path, "vae")
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="unet holds no weights"):
        folders.component_tensors(tmp_path, "unet")


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff{")
    (tmp_path / "b.json").write_text("[1]")
    for name, message in [("a", "is not JSON"), ("b", "holds list"), ("c", "No such file")]:
        with pytest.raises(UserError, match=rf"{name}\.json .*{message}"):
            folders.read_json(tmp_path / f"{name}.json")


def test_diffusers_reads_what_was_written(tmp_path, vae):
    folders.save_component(tmp_path, "vae", numpy_state(vae), dict(vae.config, _class_name="x"))
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert_same(numpy_state(theirs), numpy_state(vae))


def test_transformers_reads_what_was_written(tmp_path, text_encoder):
    tensors = folders.current_names(numpy_state(text_encoder))
    folders.save_component(tmp_path, "text_encoder", tensors, text_encoder.config.to_dict())
    theirs = transformers.CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    assert_same(numpy_state(theirs), numpy_state(text_encoder))
    file = safetensors.TensorFile(tmp_path / "text_encoder/model.safetensors")
    assert file.metadata == {"format": "pt"} and all(key.startswith("text_model.") for key in file)


def test_a_folder_appears_whole_and_replaces_a_model(tmp_path):
    target = tmp_path / "new" / "model"
    for value in (1, 2):
        with folders.written_aside(target) as aside:
            folders.write_json(aside / "model_index.json", {"value": value})
            assert target.exists() == (value == 2)
        assert folders.read_json(target / "model_index.json") == {"value": value}
    assert os.listdir(target.parent) == ["model"]


def test_what_the_user_put_beside_a_model_is_kept(tmp_path):
    target = tmp_path / "model"
    for name in ("old", "new"):
        with folders.written_aside(target) as aside:
            index = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": [None, None]}
            folders.write_json(aside / "model_index.json", index)
            (aside / "unet").mkdir()
            (aside / "unet" / name).touch()
        if name == "old":
            (target / "notes.txt").write_text("trained on my cat")
            (target / "pictures").mkdir()
            (target / "pictures" / "1.png").touch()
            (target / "vae").mkdir()  # a part of the old model, which the new one replaces
    assert (target / "notes.txt").read_text() == "trained on my cat"
    assert {path.name for path in target.iterdir()} == {
        "model_index.json",
        "unet",
        "notes.txt",
        "pictures",
    }
    assert [path.name for path in (target / "unet").iterdir()] == ["new"]
    assert (target / "pictures" / "1.png").is_file()


def test_an_error_leaves_the_old_model_and_nothing_else(tmp_path):
    target = tmp_path / "model"
    with folders.written_aside(target) as aside:
        folders.write_json(aside / "model_index.json", {"value": 1})
    with pytest.raises(UserError, match="cannot write .*model: No space left"):
        with folders.written_aside(target) as aside:
            folders.write_json(aside / "model_index.json", {"value": 2})
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyboardInterrupt):
        with folders.written_aside(target):
            raise KeyboardInterrupt
    assert folders.read_json(target / "model_index.json") == {"value": 1}
    assert os.listdir(tmp_path) == ["model"]


def test_a_model_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    """It stayed aside under a hidden name, which the next model deleted."""
    target, rename = tmp_path / "model", pathlib.Path.rename
    with folders.written_aside(target) as aside:
        folders.write_json(aside / "model_index.json", {"value": 1})

    def fails(self, place):
        if self.name == ".model.part":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, place)

    monkeypatch.setattr(pathlib.Path, "rename", fails)
    with pytest.raises(UserError, match="cannot write .*model: "):
        with folders.written_aside(target) as aside:
            folders.write_json(aside / "model_index.json", {"value": 2})
    assert folders.read_json(target / "model_index.json") == {"value": 1}
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="exists and is not a model folder"):
        with folders.written_aside(tmp_path):
            pass
    assert os.listdir(tmp_path) == ["holiday.jpg"]
