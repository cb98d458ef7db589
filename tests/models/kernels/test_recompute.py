"""Recomputation: the same numbers, no gradient that nobody asked for, and less memory."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd.models.kernels.recompute import recomputed
from flax_sd.system import program
from flax_sd.system.flops import count_flops
from tests import parity


class Layer(nnx.Module):
    """Wide inside."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(width, 16 * width, rngs=rngs)
        self.down = nnx.Linear(16 * width, width, rngs=rngs)

    def __call__(self, x, scale):
        return x + self.down(jnp.tanh(self.up(x))) * scale["a"]


def plainly(call, module, *args):
    return call(module, *args)


def loss(run, layers, x, scale):
    for layer in layers:
        x = run(Layer.__call__, layer, x, scale)
    return jnp.sum(jnp.square(x))


def made(count=3, width=8):
    layers = nnx.List([Layer(width, rngs=nnx.Rngs(i)) for i in range(count)])
    graph, state = nnx.split(layers)
    return state, lambda run: lambda state, x, scale: loss(run, nnx.merge(graph, state), x, scale)


def test_values_and_all_gradients_are_equal():
    state, make = made()
    x = jnp.asarray(np.random.default_rng(0).normal(1, 2, (3, 8)), jnp.float32)
    args = state, x, {"a": jnp.float32(0.3)}
    again, plain = (
        jax.jit(jax.value_and_grad(make(run), argnums=(0, 1, 2)))(*args)
        for run in (recomputed, plainly)
    )
    for a, b in zip(*map(jax.tree.leaves, (again, plain)), strict=True):
        parity.assert_close(a, b, parity.LAYER)


def test_frozen_weights_cost_nothing():
    """The gradient of x alone takes one pass more than without recomputation, not two."""
    state, make = made()
    args = state, jnp.ones((3, 8)), {"a": jnp.float32(1)}
    again, plain = (
        count_flops(jax.grad(make(run), argnums=1), *args) for run in (recomputed, plainly)
    )
    assert again == plain * 3 / 2


def test_it_waits_for_the_gradient():
    """Else the compiler computes every layer again at once, and holds all that is wide."""
    state, make = made(count=6, width=64)
    shapes = jax.ShapeDtypeStruct((512, 64), jnp.float32), {"a": jnp.float32(1)}

    again, plain = (
        program.jit(jax.grad(make(run), argnums=1))
        .lower(state, *shapes)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for run in (recomputed, plainly)
    )
    assert again < 0.6 * plain
