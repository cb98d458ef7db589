"""The safetensors format against its own library, and files that are damaged."""

import errno
import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flax_sd.errors import UserError
from flax_sd.weights import safetensors as ours

DTYPES = ["f8", "f4", "f2", ml_dtypes.bfloat16, "i8", "i4", "i2", "i1", "u1", "?"]


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        f"layer.{i}.{np.dtype(dtype).name}": rng.normal(size=shape).astype(dtype)
        for i, (dtype, shape) in enumerate(
            zip(DTYPES, [(3, 5), (7,), (), (2, 3, 1, 1), (0, 4)] * 2, strict=True)
        )
    }


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].dtype == theirs[key].dtype and ours[key].shape == theirs[key].shape
        assert ours[key].tobytes() == theirs[key].tobytes()


def test_every_dtype_returns_bit_for_bit(tmp_path, tensors):
    ours.write(tmp_path / "a.safetensors", tensors, {"b": "2", "a": "1"})
    file = ours.TensorFile(tmp_path / "a.safetensors")
    assert_same(dict(file), tensors)
    assert file.metadata == {"a": "1", "b": "2"} and list(file) == sorted(tensors)
    assert all(file.shape(k) == v.shape and file.dtype(k) == v.dtype for k, v in tensors.items())


def test_the_library_reads_ours_and_we_read_the_librarys(tmp_path, tensors):
    ours.write(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    assert_same(safetensors.numpy.load_file(tmp_path / "a.safetensors"), tensors)
    torchs = safetensors.torch.load_file(tmp_path / "a.safetensors")
    key = next(key for key in tensors if key.endswith("bfloat16"))
    assert torchs[key].dtype == torch.bfloat16
    safetensors.torch.save_file(torchs, tmp_path / "b.safetensors", metadata={"format": "pt"})
    file = ours.TensorFile(tmp_path / "b.safetensors")
    assert_same(dict(file), tensors)
    assert file.metadata == {"format": "pt"}


def test_torchs_eight_bits_and_unsigned_numbers(tmp_path):
    """Trap 24: torch's float8_e4m3fn is named F8_E4M3."""
    path = tmp_path / "a.safetensors"
    numbers = torch.tensor([-448.0, 0.5, 3.0])
    theirs = {
        "e4m3": numbers.to(torch.float8_e4m3fn),
        "e5m2": numbers.to(torch.float8_e5m2),
        "u16": torch.tensor([0, 65535], dtype=torch.uint16),
        "u32": torch.tensor([7], dtype=torch.uint32),
        "u64": torch.tensor([2**63 - 1], dtype=torch.uint64),
        "v_pred": torch.tensor([]),
    }
    safetensors.torch.save_file(theirs, path)
    file = ours.TensorFile(path)
    assert file["e4m3"].dtype == ml_dtypes.float8_e4m3fn
    for key in ("e4m3", "e5m2"):
        assert file[key].astype(np.float32).tolist() == theirs[key].float().tolist()
    assert [file[key].tolist() for key in ("u16", "u32", "u64")] == [[0, 65535], [7], [2**63 - 1]]
    assert file["v_pred"].shape == (0,)
    ours.write(tmp_path / "b.safetensors", dict(file))
    again = safetensors.torch.load_file(tmp_path / "b.safetensors")
    assert again["e4m3"].dtype == torch.float8_e4m3fn and "v_pred" in again


def test_equal_content_gives_equal_bytes(tmp_path, tensors):
    backwards = dict(reversed(tensors.items()))
    ours.write(tmp_path / "a.safetensors", tensors, {"x": "1", "y": "2"})
    ours.write(tmp_path / "b.safetensors", backwards, {"y": "2", "x": "1"})
    data = (tmp_path / "a.safetensors").read_bytes()
    assert data == (tmp_path / "b.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    keys = list(json.loads(data[8 : 8 + length]))
    assert length % 8 == 0 and keys == ["__metadata__", *sorted(tensors)]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        hnp.arrays(
            st.sampled_from(["f4", "f2", "i8", "u1"]), hnp.array_shapes(min_dims=0, max_side=3)
        ),
        max_size=4,
    )
)
def test_any_names_and_values_return(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    ours.write(path, content)
    assert_same(dict(ours.TensorFile(path)), content)


def test_transposed_and_strided_tensors_are_written_in_order(tmp_path):
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    ours.write(tmp_path / "a.safetensors", {"t": grid.T, "s": grid[::2, 1::2]})
    file = ours.TensorFile(tmp_path / "a.safetensors")
    assert_same(dict(file), {"t": grid.T.copy(), "s": grid[::2, 1::2].copy()})


def test_a_tensor_is_a_view_of_the_file(tmp_path):
    ours.write(tmp_path / "a.safetensors", {"x": np.ones(3, np.float32)})
    view = ours.TensorFile(tmp_path / "a.safetensors")["x"]
    assert not view.flags.writeable and not view.flags.owndata


def test_every_cut_of_a_file_is_refused_by_name(tmp_path, tensors):
    path = tmp_path / "cut.safetensors"
    ours.write(path, tensors)
    data = path.read_bytes()
    for keep in [1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:keep])
        with pytest.raises(
            UserError, match=r"cut\.safetensors is not a whole safetensors file"
        ) as e:
            ours.TensorFile(path)
    assert "1 bytes are missing" in str(e.value)
    path.write_bytes(data + b"x")
    with pytest.raises(UserError, match=f"end at byte {len(data)}, the file has {len(data) + 1}"):
        ours.TensorFile(path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header, message",
    [
        ([], "does not begin with a header's length and a header"),
        ({"w": 3}, "invalid entry for w"),
        ({"w": {"dtype": "F32", "shape": [2]}}, "invalid entry for w"),
        ({"w": {**ENTRY, "shape": [-2]}}, "invalid entry for w"),
        ({"w": {**ENTRY, "data_offsets": [-8, 0]}}, "invalid entry for w"),
        ({"w": {**ENTRY, "shape": [3]}}, r"w of F32 \[3\] cannot fill 8 bytes"),
        ({"w": {**ENTRY, "dtype": "F4"}}, "w has dtype F4, not one of F64"),
        ({"w": {**ENTRY, "data_offsets": [8, 16]}}, "w begins at byte"),
        ({"w": ENTRY, "v": ENTRY}, "begins at byte"),
        ({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, "end at byte"),
    ],
)
def test_an_invalid_header_is_refused(tmp_path, header, message):
    text = json.dumps(header).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(UserError, match=f"(?s)bad.safetensors.*{message}"):
        ours.TensorFile(path)


def test_no_header(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((16).to_bytes(8, "little") + b"\xff" * 16)
    with pytest.raises(UserError, match="does not begin with a header's length and a header"):
        ours.TensorFile(path)
    path.write_bytes((16).to_bytes(8, "little") + b"{" + b"\xff" * 16)
    with pytest.raises(UserError, match="header is not JSON"):
        ours.TensorFile(path)
    path.write_bytes((10**10).to_bytes(8, "little") + b'{"w":' + b"\xff" * 16)
    with pytest.raises(UserError, match="header claims 10000000000 bytes; 100000000 is the most"):
        ours.TensorFile(path)
    with pytest.raises(UserError, match=r"none.safetensors is not there"):
        ours.TensorFile(tmp_path / "none.safetensors")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    ours.write(path, {"x": np.zeros(3, np.float32)})
    before = path.read_bytes()

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.safetensors: No space left"):
        ours.write(path, {"x": np.ones(30, np.float32)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*nowhere/a\.safetensors: No such file"):
        ours.write(tmp_path / "nowhere" / "a.safetensors", {})


@pytest.fixture
def damaged(monkeypatch, tmp_path):
    """Changes what was written, once it is on the disk and before it is read again."""

    def hurt(change):
        synced = os.fsync

        def fsync(descriptor):
            synced(descriptor)
            with (tmp_path / ".a.safetensors.part").open("r+b") as file:
                change(file)

        monkeypatch.setattr(os, "fsync", fsync)

    return hurt


def flip(at, whence):
    def change(file):
        file.seek(at, whence)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))

    return change


def cut(file):
    file.truncate(os.fstat(file.fileno()).st_size - 1)


@pytest.mark.parametrize(
    ("compared", "change"),
    [
        (2**30, flip(-1, os.SEEK_END)),  # a number
        (2**30, flip(12, os.SEEK_SET)),  # a name: the header opens
        (0, flip(12, os.SEEK_SET)),  # of a file too large to be read again
        (0, flip(8, os.SEEK_SET)),
        (0, cut),
    ],
)
def test_a_disk_that_gives_back_other_bytes_is_noticed(
    tmp_path, monkeypatch, damaged, compared, change
):
    path = tmp_path / "a.safetensors"
    ours.write(path, {"long": np.zeros(3, np.float32)})
    before = path.read_bytes()
    monkeypatch.setattr(ours, "_COMPARED", compared)
    damaged(change)
    with pytest.raises(UserError, match=r"cannot write .*a\.safetensors: the disk returned"):
        ours.write(path, {"long": np.ones(30, np.float32)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]


def test_numbers_of_a_large_file_are_not_read_again(tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(ours, "_COMPARED", 0)
    damaged(flip(-1, os.SEEK_END))
    ours.write(tmp_path / "a.safetensors", {"long": np.ones(30, np.float32)})
