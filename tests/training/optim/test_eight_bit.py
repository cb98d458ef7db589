import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd.config import OptimConfig
from flax_sd.training import optim
from flax_sd.training.optim.eight_bit import BLOCK, MIN_SIZE, Quantised, quantise, restore, table


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_is_that_of_the_paper(signed):
    values = table(signed=signed)
    assert len(values) == len(np.unique(values)) == 256 and (np.diff(values) > 0).all()
    assert values.max() == 1 and (values == 0).sum() == 1
    # Golden: the largest decade's neighbours of 1 and the smallest number, by hand.
    assert values[-2] == pytest.approx(1 - 0.9 / (128 if signed else 256))
    assert values[values > 0].min() == pytest.approx(0.55e-6 if signed else 0.325e-6)
    assert values.min() == pytest.approx(-(1 - 0.9 / 128) if signed else 0)


@pytest.mark.parametrize("signed", [True, False])
def test_a_number_comes_back_as_the_nearest_value_of_its_block(signed):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2 * BLOCK)) * 10.0 ** rng.uniform(-4, 3, (3, 1))
    x = np.abs(x) if not signed else x
    q = quantise(jnp.asarray(x, jnp.float32), signed=signed)
    back = np.asarray(restore(q, x.shape, signed=signed))
    for row, got in zip(x.reshape(-1, BLOCK), back.reshape(-1, BLOCK), strict=True):
        values = table(signed=signed) * np.abs(row).max()
        nearest = np.abs(values[None] - row[:, None]).min(1)
        np.testing.assert_allclose(np.abs(got - row), nearest, atol=1e-6 * np.abs(row).max())


def test_a_block_of_zeros_and_an_odd_size_come_back():
    for size in (BLOCK, BLOCK + 3):
        q = quantise(jnp.zeros(size), signed=True)
        assert not np.asarray(restore(q, (size,), signed=True)).any()


def test_small_leaves_stay_whole_and_large_ones_take_a_quarter():
    tx = optim.make_optimizer(OptimConfig(method="adamw8bit", max_grad_norm=0.0), 10)
    state = tx.init({"unet": {"small": jnp.zeros(MIN_SIZE - 1), "large": jnp.zeros((64, 80))}})
    kinds = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Quantised))
    quantised = [k for k in kinds if isinstance(k, Quantised)]
    assert len(quantised) == 2
    taken = sum(leaf.nbytes for q in quantised for leaf in q)
    assert taken == pytest.approx(2 * 64 * 80 * (1 + 4 / BLOCK))


def test_its_steps_are_near_those_of_32_bits():
    rng = np.random.default_rng(0)
    start = {"unet": {"w": jnp.asarray(rng.normal(size=(64, 80)), jnp.float32)}}
    grads = [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), start)]
    grads += [jax.tree.map(lambda g, k=k: g + 0.3 * k, grads[0]) for k in range(20)]

    def moved(method):
        tx = optim.make_optimizer(OptimConfig(method=method, learning_rate=1e-2), 50)
        params, state, update = start, tx.init(start), jax.jit(tx.update)
        for grad in grads:
            updates, state = update(grad, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return np.asarray(params["unet"]["w"] - start["unet"]["w"])

    ours, theirs = moved("adamw8bit"), moved("adamw")
    assert 0 < np.linalg.norm(ours - theirs) < 0.03 * np.linalg.norm(theirs)
