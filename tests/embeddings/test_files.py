"""Embedding files: the forms that people have, and what is refused of them."""

import numpy as np
import pytest
import safetensors.torch
import torch

from flax_sd.embeddings.embedding import Embedding
from flax_sd.embeddings.files import EMBEDS_FILE, KOHYA_KEY, read, read_written, write
from flax_sd.errors import UserError
from flax_sd.weights import safetensors as ours

ONE = {"text_encoder": 12}
TWO = {"text_encoder": 12, "text_encoder_2": 10}
ROWS = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    """Writes tensors as torch does; returns the file."""

    def write(name="my-cat.safetensors", **tensors):
        arrays = {key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}
        safetensors.torch.save_file(arrays, tmp_path / name)
        return tmp_path / name

    return write


def test_the_forms_that_people_have(save):
    for tensors, token, rows in [
        ({"<cat>": ROWS}, "<cat>", ROWS),
        ({"<cat>": ROWS[0]}, "<cat>", ROWS[:1]),
        ({KOHYA_KEY: ROWS[:2]}, "my-cat", ROWS[:2]),
    ]:
        found = read(save(**tensors), ONE)
        assert found.token == token and np.array_equal(found.tables["text_encoder"], rows)
        assert read(save(**tensors), ONE, "<sks>").token == "<sks>"
    half = read(save(**{"<cat>": ROWS.astype(np.float16)}), ONE).tables["text_encoder"]
    assert half.dtype == np.float32 and np.array_equal(half, ROWS.astype(np.float16))
    assert read(save(EMBEDS_FILE, **{"<cat>": ROWS}).parent, ONE).token == "<cat>"


def test_what_is_written_is_read_and_has_the_same_bytes(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in ("a", "b", "named")]
    for path in paths[:2]:
        write(path, Embedding("<cat>", {"text_encoder": ROWS}))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert {k: v.tolist() for k, v in safetensors.torch.load_file(paths[0]).items()} == {
        "<cat>": ROWS.tolist()
    }
    write(paths[2], Embedding("<cat>", {"text_encoder": ROWS}), KOHYA_KEY)
    token, tables = read(paths[2], ONE)
    assert token == "named" and np.array_equal(tables["text_encoder"], ROWS)
    with pytest.raises(UserError, match=r"a\.safetensors is not written, for numbers that are NaN"):
        write(paths[0], Embedding("<cat>", {"text_encoder": ROWS * np.nan}))


@pytest.mark.parametrize(
    "tensors, message",
    [
        (
            {"clip_l": ROWS, "clip_g": ROWS},
            r"holds clip_g \[3, 12\] and clip_l \[3, 12\]: these are SDXL's; this model reads one",
        ),
        ({"a": ROWS, "b": ROWS}, r"holds a \[3, 12\], b \[3, 12\]: it should hold one tensor"),
        ({"a": ROWS[None]}, r"holds a \[1, 3, 12\]: it should hold one tensor"),
        (
            {"<cat>": np.ones((2, 768))},
            "has vectors 768 wide .Stable Diffusion 1.x.; .* is 12 wide",
        ),
        ({"<cat>": np.ones((2, 11))}, "has vectors 11 wide; this model's text encoder is 12 wide"),
        ({"<cat>": np.ones((76, 12))}, "has 76 vectors: a prompt has room for 1 to 75"),
        ({"<cat>": np.full((1, 12), np.inf)}, "holds NaN or infinite values"),
    ],
)
def test_what_cannot_be_an_embedding(save, tensors, message):
    with pytest.raises(UserError, match=f"embedding .*my-cat.safetensors {message}"):
        read(save(**tensors), ONE)


def test_pickles_are_refused_with_a_way_out_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = torch.from_numpy(ROWS)
    torch.save({"string_to_param": {"*": rows}, "name": "cat"}, "cat.pt")
    torch.save({"<cat>": rows}, "learned_embeds.bin")
    for name, token in [("cat.pt", "cat"), ("learned_embeds.bin", "<cat>")]:
        with pytest.raises(UserError, match="is a pickle, which can run code") as caught:
            read(tmp_path / name, ONE)
        command = str(caught.value).partition("from with ")[2]
        exec(command, {"torch": torch, "safetensors": safetensors})
        found = read(tmp_path / name.replace(".pt", ".bin").replace(".bin", ".safetensors"), ONE)
        assert found.token == token and np.array_equal(found.tables["text_encoder"], ROWS)


def test_a_folder_without_an_embedding(tmp_path):
    ours.write(tmp_path / "other.safetensors", {"<cat>": ROWS})
    with pytest.raises(UserError, match="is a folder without learned_embeds.safetensors"):
        read(tmp_path, ONE)


OTHERS = np.random.default_rng(1).normal(size=(3, 10)).astype(np.float32)


def test_sdxls_two_tables(save, tmp_path):
    """Trap 11."""
    path = save(clip_l=ROWS, clip_g=OTHERS)
    token, tables = read(path, TWO)
    assert token == "my-cat" and list(tables) == list(TWO)
    assert np.array_equal(tables["text_encoder"], ROWS)
    assert np.array_equal(tables["text_encoder_2"], OTHERS)
    assert list(read(path, {"text_encoder_2": 10}).tables) == ["text_encoder_2"]  # the refiner
    write(tmp_path / "new.safetensors", Embedding("<cat>", tables))
    written = safetensors.torch.load_file(tmp_path / "new.safetensors")
    assert {key: value.shape for key, value in written.items()} == {
        "clip_l": (3, 12),
        "clip_g": (3, 10),
    }
    for found in (
        read(tmp_path / "new.safetensors", TWO),
        read_written(tmp_path / "new.safetensors", "<cat>"),
    ):
        assert found.token == "<cat>"
        assert all(np.array_equal(found.tables[name], tables[name]) for name in TWO)


@pytest.mark.parametrize(
    "tensors, message",
    [
        (
            {"clip_l": ROWS},
            r"holds clip_l \[3, 12\] alone: this model is SDXL and reads clip_l \[n, 12\] and "
            r"clip_g \[n, 10\], for its text encoders",
        ),
        ({"clip_g": OTHERS}, r"holds clip_g \[3, 10\] alone: this model is SDXL and reads clip_l"),
        ({"<cat>": ROWS}, r"holds <cat> \[3, 12\] alone: this model is SDXL and reads clip_l"),
        (
            {"clip_l": ROWS, "clip_g": ROWS},
            "has vectors 12 wide; this model's text encoder 2 is 10 wide",
        ),
        (
            {"clip_l": ROWS, "clip_g": OTHERS[:2]},
            "has 2 in clip_g and 3 in clip_l: each table should have as many vectors",
        ),
        ({"clip_l": ROWS, "clip_x": OTHERS}, "holds clip_l .*, clip_x .*: it should hold one"),
    ],
)
def test_what_does_not_fit_both_text_encoders(save, tensors, message):
    """Trap 11: with one text encoder alone a token does next to nothing."""
    with pytest.raises(UserError, match=f"embedding .*my-cat.safetensors {message}"):
        read(save(**tensors), TWO)
