"""What a store keeps, through damage and two writers; and what tells one network from another."""

import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.training.inputs.encoding_cache import Store, identity, key_of

ARRAYS = {"mean": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "encoded")


def files(store):
    return [path for path in store.folder.rglob("*") if path.is_file()]


def test_what_was_written_is_read(store):
    assert not store.has("ab1")
    store.write("ab1", ARRAYS)
    store.write("ab1", ARRAYS)
    assert store.has("ab1") and not store.has("ab2") and len(files(store)) == 1
    read = store.read("ab1")
    assert read.keys() == ARRAYS.keys()
    np.testing.assert_array_equal(read["mean"], ARRAYS["mean"])


def test_bfloat16_is_kept(store):
    states = np.asarray(jax.numpy.linspace(0, 1, 5, dtype="bfloat16"))
    store.write("ab", {"states": states})
    assert store.read("ab")["states"].dtype == states.dtype
    np.testing.assert_array_equal(store.read("ab")["states"], states)


@pytest.mark.parametrize("size", [0, 7, 40, -1])
def test_a_file_cut_short_counts_as_absent(store, size):
    store.write("ab", ARRAYS)
    (path,) = files(store)
    path.write_bytes(path.read_bytes()[:size])
    assert not store.has("ab")
    with pytest.raises(UserError, match="run the same command again to encode it"):
        store.read("ab")
    store.write("ab", ARRAYS)
    assert store.has("ab")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "encoded")
    with pytest.raises(
        UserError, match="cannot write .*file/encoded.*: Not a directory.*; it is a cache"
    ):
        store.write("ab", ARRAYS)


def test_it_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store().folder == tmp_path / "flax_sd" / "encoded"
    assert Store().room() > 0


def test_keys_differ_wherever_a_value_does():
    values = [("a", "b"), ("ab",), ("ab", ""), ("a", 1), ("a", True), ("a", "1"), ("a", None)]
    assert len({key_of(*each) for each in values}) == len(values)


class Network(nnx.Module):
    def __init__(self, config, value, dtype="float32"):
        self.config = config
        self.weight = nnx.Param(jax.numpy.full((2, 2), value, dtype))
        self.other = nnx.Param(jax.numpy.zeros(4))


def test_an_identity_is_that_of_config_weights_and_dtype():
    networks = [
        Network("a", 0),
        Network("b", 0),
        Network("a", 1e-6),
        Network("a", 0, "bfloat16"),
    ]
    seen = [identity(network, nnx.state(network)) for network in networks]
    assert len(set(seen)) == len(networks)
    again = Network("a", 0)
    assert identity(again, nnx.state(again)) == seen[0]
