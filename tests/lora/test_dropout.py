"""What a LoRA leaves out, and that it is the same for a part of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_sd.lora.dropout import drop
from flax_sd.lora.dropout_masks import Rates, draw_masks
from flax_sd.lora.inject import attach
from flax_sd.models.kernels.recompute import recomputed
from tests.lora.networks import small
from tests.lora.test_inject import random_adapters
from tests.parity import LAYER, assert_close

KEYS = jax.random.split(jax.random.key(5), 6)


def masks(rates, keys=KEYS, rank=1):
    """Those of one layer."""
    return draw_masks(rates, keys[None], rank)[0]


def test_neurons_are_dropped_one_by_one_and_the_others_enlarged():
    low = masks(Rates(neuron=0.25)).between(jnp.ones((6, 40, 30)))
    assert set(np.unique(low)) == {0, np.float32(1 / 0.75)}
    assert abs(float(low.mean()) - 1) < 0.02
    assert not (low == low[:, :1]).all() and not (low == low[:1]).all()


def test_columns_are_dropped_at_all_positions_of_a_row():
    low = masks(Rates(rank=0.5), rank=400).between(jnp.ones((6, 5, 4, 400)))
    assert set(np.unique(low)) == {0, 2} and abs(float(low.mean()) - 1) < 0.1
    assert (low == low[:, :1, :1]).all() and not (low == low[:1]).all()


def test_updates_are_dropped_whole_and_nothing_is_enlarged():
    keys = jax.random.split(jax.random.key(0), 1000)
    change = masks(Rates(module=0.3), keys).update(jnp.ones((1000, 3, 2)))
    assert set(np.unique(change)) == {0, 1} and (change == change[:, :1, :1]).all()
    assert abs(float(change.mean()) - 0.7) < 0.05
    low = masks(Rates(module=0.3), keys).between(jnp.ones((1000, 3)))
    assert (low == 1).all()


def linears(rates, keys, names="ab", ranks=(6, 6)):
    """A network of layers of the same weights, on which a LoRA drops."""
    layer = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
    model = nnx.Dict({name: nnx.clone(layer) for name in names})
    for name, rank in zip(names, ranks, strict=True):
        attach(model, {name: random_adapters(small(), rank=rank)["attn2.to_q"]}, 1.0)
    if rates:
        drop(model, rates, keys)
    return model


@pytest.mark.parametrize("rates", [Rates(rank=0.5), Rates(0.2, 0.3, 0.4)])
def test_a_part_of_a_batch_loses_what_the_whole_does(rates):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 8)), jnp.float32)
    model, plain = linears(rates, KEYS), linears(None, KEYS)
    whole = model["a"](x)
    assert_close(linears(rates, KEYS[2:4])["a"](x[2:4]), whole[2:4], LAYER)
    assert not np.allclose(whole, plain["a"](x))
    assert not np.allclose(whole, model["b"](x))  # another layer draws its own
    np.testing.assert_array_equal(plain["a"](x), plain["b"](x))


def test_recomputation_drops_the_same_again():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 8)), jnp.float32)

    def value(params, run):
        model = nnx.merge(graph, params, rest)
        drop(model, Rates(0.2, 0.3, 0.4), KEYS)
        return jnp.square(run(lambda layer, x: layer(x), model["a"], x)).sum()

    graph, params, rest = nnx.split(linears(None, KEYS), nnx.LoRAParam, ...)
    gradient = jax.jit(jax.grad(value), static_argnums=1)
    plain, again = (gradient(params, run) for run in (lambda f, *args: f(*args), recomputed))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert any(leaf.any() for leaf in jax.tree.leaves(plain))


@pytest.mark.parametrize("rates", [Rates(rank=0.5), Rates(module=0.5), Rates(0.2, 0.3, 0.4)])
def test_what_a_layer_loses_is_its_own_matter(rates):
    """C5: other layers beside it, of other ranks, change nothing of it."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 8)), jnp.float32)
    alone = linears(rates, KEYS, "b", (6,))["b"](x)
    np.testing.assert_array_equal(linears(rates, KEYS, "abc", (2, 6, 7))["b"](x), alone)


def draws(rates, count):
    """How many operations of a pass draw random numbers, and how many make keys."""

    def run(x, keys):
        model = nnx.merge(graph, state)
        drop(model, rates, keys)
        for name in names:
            x = model[name](x)
        return x

    names = "abcdefgh"[:count]
    graph, state = nnx.split(linears(None, KEYS, names, (3,) * count))
    found = [*primitives(jax.make_jaxpr(run)(jnp.ones((6, 8)), KEYS).jaxpr)]
    return found.count("random_bits"), found.count("random_fold_in")


def primitives(jaxpr):
    """The name of each operation, also of those within others."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


@pytest.mark.parametrize("rates", [Rates(rank=0.5), Rates(rank=0.5, module=0.5)])
def test_all_layers_are_drawn_at_once(rates):
    """C5: a draw a layer made the step slow to compile."""
    few, many = draws(rates, 1), draws(rates, 8)
    assert few == many and few[0] == sum(rate > 0 for rate in rates)


def test_neurons_are_one_draw_a_layer():
    """Their places are known in the layer alone; their keys are made together."""
    (few, keys), (many, same_keys) = (draws(Rates(neuron=0.5), count) for count in (1, 8))
    assert (few, many) == (1, 8) and keys == same_keys
