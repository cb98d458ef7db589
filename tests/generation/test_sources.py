import hashlib

import numpy as np
import pytest

from flax_sd.embeddings.files import embedding_hash, locate
from flax_sd.errors import UserError
from flax_sd.generation.sources import EmbeddingSource, LoRASource, parse_embedding, parse_lora
from flax_sd.lora.formats.read import lora_hash
from flax_sd.weights import safetensors
from flax_sd.weights.identity import display_name, fingerprint, is_local


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.write(path, {"x": np.arange(6, dtype=np.float32)})
    return path


def test_path_and_scale(file):
    assert parse_lora(str(file)) == LoRASource(file, 1.0)
    assert parse_lora(f"{file}:0.8") == LoRASource(file, 0.8)
    assert parse_lora(f"{file}:-1e-1") == LoRASource(file, -0.1)


def test_a_path_may_hold_colons(file):
    for name in ("b:c.safetensors", "d.safetensors:2"):
        other = file.rename(file.with_name(name))
        assert parse_lora(str(other)) == LoRASource(other, 1.0)
        assert parse_lora(f"{other}:0.5") == LoRASource(other, 0.5)
        other.rename(file)


@pytest.mark.parametrize("scale", ["1,0", ""])
def test_a_scale_that_is_no_number_is_named(file, scale):
    """A message says what to do: the file is there, and its scale is what is wrong."""
    with pytest.raises(UserError, match=f"has scale '{scale}': should be a number"):
        parse_lora(f"{file}:{scale}")


def test_a_folder(file):
    with pytest.raises(UserError, match="is a folder without lora.safetensors"):
        parse_lora(str(file.parent))
    main = file.rename(file.with_name("lora.safetensors"))
    safetensors.write(file, {"y": np.zeros(2, np.float32)})  # as a run's best, which is not read
    assert lora_hash(file.parent) == lora_hash(main)
    assert parse_lora(f"{file.parent}:2") == LoRASource(file.parent, 2.0)


def test_embedding_and_token(file):
    assert parse_embedding(str(file)) == EmbeddingSource(file, None)
    assert parse_embedding(f"{file}:<my cat>") == EmbeddingSource(file, "<my cat>")
    with pytest.raises(UserError, match="embedding x:<cat> is not there; write PATH or PATH:TOKEN"):
        parse_embedding("x:<cat>")
    assert embedding_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()[:12]


@pytest.mark.parametrize(
    "ending, message",
    [
        (":strong", "a.safetensors has scale 'strong': should be a number"),
        (".bak", "a.safetensors.bak is not there$"),
        (":nan", "a.safetensors has scale nan: should be a number"),
    ],
)
def test_bad_lora_flags(file, ending, message):
    with pytest.raises(UserError, match=message):
        parse_lora(f"{file}{ending}")


def test_a_damaged_file_is_found_at_once(file):
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        parse_lora(str(file))


def test_lora_hash_is_that_of_web_uis(file):
    """Of the tensors alone: another header leaves it as it is."""
    data = np.arange(6, dtype=np.float32).tobytes()
    assert lora_hash(file) == hashlib.sha256(data).hexdigest()[:12]
    before = lora_hash(file)
    safetensors.write(file, {"x": np.arange(6, dtype=np.float32)}, {"a": "b"})
    assert lora_hash(file) == before


def test_fingerprint_samples_the_whole_length(tmp_path):
    path = tmp_path / "weights"
    size = 20 * 2**16 + 5
    path.write_bytes(bytes(size))
    seen = {fingerprint([path])}
    for at in (0, (size - 2**16) * 7 // 15, size - 1):  # of the first, the eighth, the last place
        data = bytearray(size)
        data[at] = 1
        path.write_bytes(data)
        seen.add(fingerprint([path]))
    path.write_bytes(bytes(size - 1))
    seen.add(fingerprint([path]))
    assert len(seen) == 5 and all(len(one) == 10 for one in seen)


def test_names_tell_no_paths(tmp_path, monkeypatch):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert display_name(str(tmp_path / "my-model")) == "my-model"
    assert display_name("my-model/.") == "my-model"
    assert display_name("CompVis/stable-diffusion-v1-4") == "CompVis/stable-diffusion-v1-4"
    assert display_name("bundled:base") == "bundled:base"


def test_what_needs_the_network(tmp_path, monkeypatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_local("org/other")
    for source in ("org/model", "./x/y", "x", "/a/b", "~/a", "bundled:base"):
        assert is_local(source)


def test_one_folder_in_the_place_of_another_is_named(tmp_path):
    """F33's siblings: a model, a run of new tokens or of a LoRA, where another is wanted."""
    (tmp_path / "learned_embeds.safetensors").touch()
    with pytest.raises(UserError, match=r": it holds new tokens \(--embedding"):
        parse_lora(str(tmp_path))
    (tmp_path / "learned_embeds.safetensors").unlink()
    (tmp_path / "model_index.json").touch()
    with pytest.raises(UserError, match=": it is a whole model"):
        parse_lora(str(tmp_path))
    (tmp_path / "lora.safetensors").touch()
    with pytest.raises(UserError, match=r": it holds a LoRA \(--lora"):
        locate(tmp_path)
