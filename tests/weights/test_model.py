"""A model's folder as it is written: what stands in it, and that it is whole or not there."""

import errno
import os

import numpy as np
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.layers import Network
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights.diffusers_folder import read_json, write_json
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles
from flax_sd.weights.safetensors import TensorFile
from tests.tiny import TOKENIZER

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
CONFIGS = {
    "unet": {"_class_name": "UNet2DConditionModel"},
    "vae": {"_class_name": "AutoencoderTiny"},
    "text_encoder": {"architectures": ["CLIPTextModel"], "torch_dtype": "float32"},
}


@pytest.fixture
def files(tmp_path):
    """A folder of configs and a tokenizer."""
    folder = tmp_path / "loaded"
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "DDIMScheduler"})
    for name, raw in CONFIGS.items():
        write_json(folder / name / "config.json", raw)
    Tokenizer.load(TOKENIZER).save(folder / "tokenizer")
    return ModelFiles(folder)


class Layer(nnx.Linear, Network):
    """A network of one layer."""


@pytest.fixture
def save(files):
    """Saves small networks in place of the real ones."""

    def save(path, seed=0):
        networks = {
            name: Layer(3, 2 + i, rngs=nnx.Rngs(seed + i)) for i, name in enumerate(CONFIGS)
        }
        model = Model(files, networks, [files.tokenizer()], files.scheduler_config)
        model.save(path, dtype="float16")
        return networks

    return save


def test_what_stands_in_the_folder(save, tmp_path):
    networks = save(tmp_path / "model")
    files = sorted(
        str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*.*")
    )
    assert files == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    file = TensorFile(tmp_path / "model/vae/diffusion_pytorch_model.safetensors")
    assert np.array_equal(file["weight"], networks["vae"].kernel[...].T.astype("float16"))


def test_the_index_names_the_parts_that_are_there(save, tmp_path):
    save(tmp_path / "model")
    index = read_json(tmp_path / "model" / "model_index.json")
    assert index["vae"] == ["diffusers", "AutoencoderTiny"]
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    assert read_json(tmp_path / "model/text_encoder/config.json")["torch_dtype"] == "float16"
    assert read_json(tmp_path / "model/unet/config.json") == CONFIGS["unet"]


def test_tokenizers_are_written_as_they_are_in_memory_or_else_as_they_lie(files, tmp_path):
    (tmp_path / "another").mkdir()
    files.tokenizer().save(tmp_path / "another")
    other = tmp_path / "another" / "tokenizer_config.json"
    other.write_text(other.read_text().rstrip() + "\n\n")
    networks = {name: Layer(3, 2, rngs=nnx.Rngs(0)) for name in CONFIGS}
    for tokenizers, expected in (
        ([Tokenizer.load(tmp_path / "another")], other),
        ([], files.folder / "tokenizer" / "tokenizer_config.json"),
    ):
        Model(files, networks, tokenizers, files.scheduler_config).save(tmp_path / "model")
        written = tmp_path / "model" / "tokenizer" / "tokenizer_config.json"
        assert written.read_bytes() == expected.read_bytes()


def test_equal_models_give_equal_bytes(save, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save(tmp_path / name, seed)
    name = "unet/diffusion_pytorch_model.safetensors"
    a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
    assert a == b != c


def test_a_full_disk_leaves_the_old_model(save, tmp_path, monkeypatch):
    save(tmp_path / "model")
    before = (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").read_bytes()
    calls = []

    def full(fd):
        calls.append(fd)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot write .*model: No space left"):
        save(tmp_path / "model", seed=1)
    after = (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").read_bytes()
    assert before == after and sorted(os.listdir(tmp_path)) == ["loaded", "model"]


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt"])
def test_a_pickle_is_refused(save, tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: pickles are not written; name a folder, or a"):
        save(tmp_path / name)
