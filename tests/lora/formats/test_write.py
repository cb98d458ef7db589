import json
import os

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats.exchange import kohya_metadata, read, write_kohya, write_peft
from flax_sd.lora.targets import slots
from tests.lora.networks import small

Q = "lora_unet_attn2_to_q"
SMALL = nnx.eval_shape(small)


def lora_of(alphas, ranks=(2, 2, 2, 2, 2), seed=0):
    rng, out = np.random.default_rng(seed), {}
    for (path, slot), alpha, rank in zip(slots(SMALL).items(), alphas, ranks, strict=True):
        *window, c_in, c_out = slot.base.kernel.shape
        down = rng.normal(size=(rank, c_in, *window)).astype(np.float32)
        up = rng.normal(size=(c_out, rank, *(1 for _ in window))).astype(np.float32)
        out[path] = Adapter(down, up, alpha)
    return {"unet": out}


def header(path):
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


def assert_same_updates(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, adapter in ours.items():
        np.testing.assert_allclose(theirs[path].delta(), adapter.delta(), rtol=1e-5, atol=1e-5)


def test_kohya_file_with_one_alpha_is_written_as_it_is(tmp_path):
    lora = lora_of([6.0] * 5)
    write_kohya(tmp_path / "a", lora, kohya_metadata("sd2", "v_prediction"))
    tensors = load_file(tmp_path / "a")
    assert len(tensors) == 15 and tensors[f"{Q}.alpha"].shape == ()
    assert tensors[f"{Q}.alpha"].dtype == np.float32 and tensors[f"{Q}.alpha"] == 6
    np.testing.assert_array_equal(tensors[f"{Q}.lora_up.weight"], lora["unet"]["attn2.to_q"].up)
    assert tensors["lora_unet_conv_down.lora_down.weight"].shape == (2, 6, 3, 3)
    assert header(tmp_path / "a") == {
        "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "v",
        "modelspec.sai_model_spec": "1.0.1",
        "ss_base_model_version": "sd_v2_v",
        "ss_network_alpha": "6.0",
        "ss_network_args": "{}",
        "ss_network_dim": "2",
        "ss_network_module": "networks.lora",
        "ss_v2": "True",
    }


@pytest.mark.parametrize(
    ("family", "prediction", "version"),
    [("sd1", "epsilon", "sd_v1"), ("sd2", "epsilon", "sd_v2"), ("sd2", "v_prediction", "sd_v2_v")],
)
def test_base_versions(family, prediction, version):
    metadata = kohya_metadata(family, prediction)
    assert metadata["ss_base_model_version"] == version
    assert metadata["ss_v2"] == ("True" if family == "sd2" else "False")


@pytest.mark.parametrize("alpha", [0.0, 1e-50, -1.5])
def test_no_alpha_is_written_that_readers_take_otherwise(tmp_path, alpha):
    """B6: sd-scripts reads an alpha of 0 as the rank."""
    lora = lora_of([alpha] * 5)
    write_kohya(tmp_path / "a", lora)
    tensors = load_file(tmp_path / "a")
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            assert tensor == 2  # the rank
    assert_same_updates(lora["unet"], read(tmp_path / "a", {"unet": SMALL})["unet"])
    assert header(tmp_path / "a")["ss_network_alpha"] == "2.0"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.25, 64), min_size=5, max_size=5),
    st.lists(st.integers(1, 6), min_size=5, max_size=5),
)
def test_any_alphas_and_ranks_round_trip_through_both_formats(tmp_path_factory, alphas, ranks):
    folder, modules = tmp_path_factory.mktemp("lora"), {"unet": SMALL}
    lora = lora_of(alphas, ranks)
    write_kohya(folder / "kohya", lora)
    tensors = load_file(folder / "kohya")
    assert len({float(t) for key, t in tensors.items() if key.endswith(".alpha")}) == 1
    from_kohya = read(folder / "kohya", modules)
    write_peft(folder / "peft", from_kohya)
    from_peft = read(folder / "peft", modules)
    assert {adapter.scale for adapter in from_peft["unet"].values()} == {1.0}
    write_kohya(folder / "again", from_peft)
    for back in (from_kohya, from_peft, read(folder / "again", modules)):
        assert_same_updates(lora["unet"], back["unet"])


def test_peft_file(tmp_path):
    lora = lora_of([6.0] * 5)
    write_peft(tmp_path / "a", lora)
    tensors, adapter = load_file(tmp_path / "a"), lora["unet"]["attn2.to_q"]
    assert header(tmp_path / "a") == {"format": "pt"}
    np.testing.assert_array_equal(tensors["unet.attn2.to_q.lora_A.weight"], adapter.down)
    np.testing.assert_array_equal(tensors["unet.attn2.to_q.lora_B.weight"], 3 * adapter.up)


@pytest.mark.parametrize("write", [write_kohya, write_peft])
def test_equal_bytes_whatever_the_order(tmp_path, write):
    lora = lora_of([1.0, 2.0, 3.0, 4.0, 5.0])
    turned = {"unet": dict(reversed(lora["unet"].items()))}
    write(tmp_path / "a", lora)
    write(tmp_path / "b", turned)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_dtypes_leave_alpha_in_float32(tmp_path, dtype):
    write_kohya(tmp_path / "a", lora_of([2049.0] * 5), dtype=dtype)
    adapter = read(tmp_path / "a", {"unet": SMALL})["unet"]["attn2.to_q"]
    assert adapter.alpha == 2049  # float16 would say 2048
    np.testing.assert_array_equal(adapter.up, adapter.up.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("write", [write_kohya, write_peft])
def test_a_file_that_the_disk_changes_leaves_the_older_one(tmp_path, monkeypatch, write):
    write(tmp_path / "a", lora_of([1.0] * 5))
    before, synced = (tmp_path / "a").read_bytes(), os.fsync

    def fsync(descriptor):
        synced(descriptor)
        damaged = bytearray((tmp_path / ".a.part").read_bytes())
        damaged[-7] ^= 1
        (tmp_path / ".a.part").write_bytes(damaged)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"cannot write .*/a: its disk or drive gave back"):
        write(tmp_path / "a", lora_of([2.0] * 5, seed=1))
    assert (tmp_path / "a").read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_what_is_not_finite_is_never_written(tmp_path):
    lora = lora_of([1.0] * 5)
    lora["unet"]["attn2.to_q"].up[0, 0] = np.inf
    for write in (write_kohya, write_peft):
        with pytest.raises(UserError, match=r"(?s)NaN, infinite or too large .*to_q"):
            write(tmp_path / "a", lora)
    lora["unet"]["attn2.to_q"].up[0, 0] = 1e6
    with pytest.raises(UserError, match="NaN, infinite"):
        write_kohya(tmp_path / "a", lora, dtype=np.float16)
    with pytest.raises(UserError, match="no LoRA to write"):
        write_kohya(tmp_path / "a", {"unet": {}})
    assert not list(tmp_path.iterdir())
