"""Files that are no safetensors, by what people find in their place (F32)."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.weights import diffusers_folder
from flax_sd.weights.safetensors import TensorFile, write

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa\n"
    b"size 3438167534\n"
)
PAGE = b'\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body class="x">'


def archive(name):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(name, b"x")
    return data.getvalue()


FILES = {
    "a pointer of Git LFS to a file of 3438167534 bytes: run `git lfs pull`": POINTER,
    "a web page, perhaps for a login: download it again; .* token": PAGE,
    "a web page": b"\xef\xbb\xbf<html lang=en>",
    r"JSON and no tensors; it says .*Repository not found.*: download it again": (
        b'{"error":"Repository not found"}'
    ),
    'text and no tensors; it says "Invalid username': b"Invalid username or password.",
    "empty: download it again": b"",
    "a pickle of torch .* by another name: .*save_file": archive("archive/data.pkl"),
    "a zip archive: unpack it first": archive("model.safetensors"),
    "a pickle .* by another name": pickle.dumps({"state_dict": 1}, protocol=2),
    "a GGUF file": b"GGUF\x03\x00\x00\x00" + bytes(64),
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nothing but zeros": bytes(4096),
}


@pytest.mark.parametrize("said", FILES)
def test_a_file_in_the_place_of_tensors_is_named(tmp_path, said):
    path = tmp_path / "unet.safetensors"
    path.write_bytes(FILES[said])
    with pytest.raises(UserError, match=f"unet.safetensors is {said}"):
        TensorFile(path)


def test_a_broken_download_says_how_much_is_missing(tmp_path):
    path = tmp_path / "x.safetensors"
    write(path, {"a": np.zeros(100, np.float32)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-399])
    with pytest.raises(UserError, match="not a whole safetensors file: .*: 399 bytes are missing"):
        TensorFile(path)
    path.write_bytes(whole[:40])
    with pytest.raises(UserError, match=r"\d+ bytes of its header and all its tensors are missing"):
        TensorFile(path)


@pytest.mark.parametrize(("data", "said"), [(POINTER, "git lfs pull"), (PAGE, "a web page")])
def test_a_config_of_a_clone_without_lfs(tmp_path, data, said):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(UserError, match=f"config.json is .*{said}"):
        diffusers_folder.read_json(tmp_path / "config.json")


def test_lists_within_lists_without_end(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    (tmp_path / "b.json").write_text('{"a": ' * 60 + "1" + "}" * 60)
    for name in "ab":
        with pytest.raises(
            UserError, match=f"{name}.json has more than 50 lists within one another"
        ):
            diffusers_folder.read_json(tmp_path / f"{name}.json")
