import functools
import logging
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.training.checkpoints import Checkpoints


class State(NamedTuple):
    params: dict
    opt_state: tuple
    key: jax.Array
    step: jax.Array
    epoch: int
    host: np.ndarray


def make_state(step=0, rank=3):
    params = {
        "unet": nnx.state(nnx.Linear(5, rank, rngs=nnx.Rngs(step))),
        "half": jnp.full((2, 7), step + 0.3, jnp.bfloat16),
    }
    return State(
        params=params,
        opt_state=optax.adam(1e-3).init(params),
        key=jax.random.key(step),
        step=jnp.asarray(step),
        epoch=step,
        host=np.full(4, step, ml_dtypes.bfloat16),
    )


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array) else x, state
    )


def assert_same(a, b):
    def same(x, y):
        assert type(x) is type(y)
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        if hasattr(x, "dtype"):
            assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)

    jax.tree.map(same, a, b)


def saved(folder, *steps, keep=3):
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, make_state(step))
    checkpoints.close()
    return Checkpoints(folder, keep)


def files(folder, part):
    return sorted(p for p in (folder / str(part)).rglob("*") if p.is_file() and p.stat().st_size)


def test_every_kind_of_leaf_comes_back(tmp_path):
    checkpoints = saved(tmp_path / "new" / "folder", 7)
    step, state = checkpoints.restore_newest(abstract(make_state()))
    assert step == 7
    assert_same(state, make_state(7))
    jax.random.normal(state.key)
    checkpoints.close()


def test_a_new_folder_has_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.restore_newest(make_state()) is None
    assert checkpoints.steps() == []
    checkpoints.close()


def test_the_newest_are_kept_and_a_step_is_saved_once(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3, 4, keep=2)
    assert checkpoints.steps() == [3, 4]
    checkpoints.save(4, make_state(99))
    checkpoints.wait()
    step, state = checkpoints.restore_newest(make_state())
    assert (step, state.epoch) == (4, 4)
    checkpoints.close()


def test_the_best_stays_beside_the_newest_until_another_is_better(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, 2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, make_state(step), best=1)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3, 4]
    assert_same(checkpoints.restore(1, abstract(make_state())), make_state(1))
    for step in (5, 6, 7, 8):
        checkpoints.save(step, make_state(step), best=5)
    checkpoints.wait()
    assert checkpoints.steps() == [5, 7, 8]
    assert checkpoints.restore(6, abstract(make_state())) is None
    assert "6 cannot be read: " in caplog.text
    checkpoints.close()


def test_the_state_may_be_donated_at_once(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def advance(x):
        return jax.tree.map(lambda v: v + 1, x)

    x = {"a": jnp.zeros((300, 500)), "b": jnp.zeros((), jnp.int32)}
    checkpoints = Checkpoints(tmp_path, 5)
    for step in range(4):
        checkpoints.save(step, x)
        for _ in range(3):
            x = advance(x)
    checkpoints.wait()
    step, restored = checkpoints.restore_newest(x)  # compares every SHA-256
    assert step == 3
    np.testing.assert_array_equal(restored["a"], 9.0)
    restored = advance(restored)
    np.testing.assert_array_equal(restored["a"], 10.0)
    checkpoints.close()


def flip(path, share=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["state/d", "leaves"])
def test_a_flipped_byte_is_found_and_the_one_before_used(tmp_path, caplog, part):
    checkpoints = saved(tmp_path, 1, 2)
    flip(max(files(tmp_path, f"2/{part}"), key=lambda p: p.stat().st_size))
    step, state = checkpoints.restore_newest(make_state())
    assert step == 1
    assert_same(state, make_state(1))
    (record,) = [r for r in caplog.records if r.name == "flax_sd"]
    assert record.levelno == logging.WARNING
    assert f"{tmp_path / '2'} is damaged" in record.message
    # The damaged step is out of the way: it can be saved anew.
    assert checkpoints.steps() == [1]
    assert (tmp_path / "2.damaged").is_dir()
    checkpoints.save(2, make_state(2))
    checkpoints.wait()
    assert checkpoints.restore_newest(make_state())[0] == 2
    checkpoints.close()


def test_no_flipped_byte_passes(tmp_path):
    """A flip anywhere either changes nothing that is read, or is found."""
    saved(tmp_path / "good", 1).close()
    found = set()
    for n, path in enumerate(
        [*files(tmp_path / "good", "1/state"), *files(tmp_path, "good/1/leaves")]
    ):
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "good", folder)
        flip(folder / path.relative_to(tmp_path / "good"), share=0.8)
        checkpoints = Checkpoints(folder, 3)
        try:
            step, state = checkpoints.restore_newest(make_state())
            assert step == 1
            assert_same(state, make_state(1))
        except UserError as error:
            assert "step 1: " in str(error)
            found.add(path.name)
        checkpoints.close()
    assert {"metadata", "manifest.ocdbt"} < found


def test_a_flip_that_tensorstore_passes_is_found(tmp_path):
    """Another value, saved whole, under the SHA-256 of this one."""
    checkpoints = saved(tmp_path, 1)
    other = saved(tmp_path / "other", 2)
    shutil.rmtree(tmp_path / "1" / "state")
    shutil.copytree(tmp_path / "other" / "2" / "state", tmp_path / "1" / "state")
    with pytest.raises(UserError, match=r"step 1: not what was saved \(SHA-256\): params"):
        checkpoints.restore_newest(make_state())
    checkpoints.close()
    other.close()


@pytest.mark.parametrize("what", ["state", "leaves", "state/manifest.ocdbt"])
def test_missing_files_are_found(tmp_path, caplog, what):
    checkpoints = saved(tmp_path, 1, 2)
    gone = tmp_path / "2" / what
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    assert checkpoints.restore_newest(make_state())[0] == 1
    assert "damaged" in caplog.text
    checkpoints.close()


def test_none_good_is_an_error(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    for step in (1, 2):
        shutil.rmtree(tmp_path / str(step) / "state")
    with pytest.raises(
        UserError, match=r"(?s)no checkpoint in .* is good:\n  step 2: .*\n  step 1: "
    ):
        checkpoints.restore_newest(make_state())
    assert checkpoints.steps() == [1, 2]  # nothing was renamed
    checkpoints.close()


def test_another_config_is_named(tmp_path):
    checkpoints = saved(tmp_path, 5)
    other = make_state(rank=4)
    del other.params["half"]
    other.params["text_encoder"] = jnp.zeros(2)
    with pytest.raises(UserError) as caught:
        checkpoints.restore_newest(other)
    message = str(caught.value)
    assert "5 is of another config" in message
    assert "params.unet.kernel" in message
    assert "float32[5, 3] in the checkpoint, float32[5, 4] in this run" in message
    assert "only the checkpoint has params.half" in message
    assert "only this run has params.text_encoder" in message
    assert checkpoints.steps() == [5]
    checkpoints.close()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints to .*file/checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints", 1)
