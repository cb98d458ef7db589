"""What holds of the files of every format that is written."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from flax_sd.errors import UserError
from flax_sd.lora.formats import kohya, peft
from flax_sd.lora.formats.read import read
from tests.lora.formats.files import SMALL, assert_same_updates, lora_of


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.25, 64), min_size=5, max_size=5),
    st.lists(st.integers(1, 6), min_size=5, max_size=5),
)
def test_any_alphas_and_ranks_round_trip_through_both_formats(tmp_path_factory, alphas, ranks):
    folder, modules = tmp_path_factory.mktemp("lora"), {"unet": SMALL}
    lora = lora_of(alphas, ranks)
    kohya.write(folder / "kohya", lora)
    tensors = load_file(folder / "kohya")
    assert len({float(t) for key, t in tensors.items() if key.endswith(".alpha")}) == 1
    from_kohya = read(folder / "kohya", modules)
    peft.write(folder / "peft", from_kohya)
    from_peft = read(folder / "peft", modules)
    assert {adapter.scale for adapter in from_peft["unet"].values()} == {1.0}
    kohya.write(folder / "again", from_peft)
    for back in (from_kohya, from_peft, read(folder / "again", modules)):
        assert_same_updates(lora["unet"], back["unet"])


@pytest.mark.parametrize("write", [kohya.write, peft.write])
def test_equal_bytes_whatever_the_order(tmp_path, write):
    lora = lora_of([1.0, 2.0, 3.0, 4.0, 5.0])
    turned = {"unet": dict(reversed(lora["unet"].items()))}
    write(tmp_path / "a", lora)
    write(tmp_path / "b", turned)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("write", [kohya.write, peft.write])
def test_a_file_that_the_disk_changes_leaves_the_older_one(tmp_path, monkeypatch, write):
    write(tmp_path / "a", lora_of([1.0] * 5))
    before, synced = (tmp_path / "a").read_bytes(), os.fsync

    def fsync(descriptor):
        synced(descriptor)
        damaged = bytearray((tmp_path / ".a.part").read_bytes())
        damaged[-7] ^= 1
        (tmp_path / ".a.part").write_bytes(damaged)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"cannot write .*/a: the disk returned"):
        write(tmp_path / "a", lora_of([2.0] * 5, seed=1))
    assert (tmp_path / "a").read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_what_is_not_finite_is_never_written(tmp_path):
    lora = lora_of([1.0] * 5)
    lora["unet"]["attn2.to_q"].up[0, 0] = np.inf
    for write in (kohya.write, peft.write):
        with pytest.raises(UserError, match=r"(?s)NaN, infinite or too large .*to_q"):
            write(tmp_path / "a", lora)
    lora["unet"]["attn2.to_q"].up[0, 0] = 1e6
    with pytest.raises(UserError, match="NaN, infinite"):
        kohya.write(tmp_path / "a", lora, dtype=np.float16)
    with pytest.raises(UserError, match="no LoRA to write"):
        kohya.write(tmp_path / "a", {"unet": {}})
    assert not list(tmp_path.iterdir())
