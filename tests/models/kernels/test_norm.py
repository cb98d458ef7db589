"""Norms with their own backward pass, against automatic differentiation and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flax_sd.models.layers import group_norm, layer_norm
from tests.parity import LAYER, assert_close

EPSILON = 1e-5


def norms(c=12, groups=3):
    """A group and a layer norm with random weights, and theirs."""
    rng = np.random.default_rng(0)
    ours = (
        group_norm(c, groups, EPSILON, rngs=nnx.Rngs(0)),
        layer_norm(c, EPSILON, rngs=nnx.Rngs(0)),
    )
    theirs = (torch.nn.GroupNorm(groups, c, EPSILON), torch.nn.LayerNorm(c, EPSILON))
    for mine, other in zip(ours, theirs, strict=True):
        scale, bias = (rng.normal(size=c).astype(np.float32) for _ in range(2))
        mine.scale[...], mine.bias[...] = scale, bias
        with torch.no_grad():
            other.weight.copy_(torch.tensor(scale))
            other.bias.copy_(torch.tensor(bias))
    return list(zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("which", "silu"), [(0, False), (0, True), (1, False)], ids=["group", "silu", "layer"]
)
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_value_and_gradients_are_torchs(which, silu, mean):
    ours, theirs = norms()[which]
    rng = np.random.default_rng(1)
    x, dy = (rng.normal(size=(3, 5, 4, 12)).astype(np.float32) for _ in range(2))
    x = (2 * x + mean).astype(np.float32)
    graph, state = nnx.split(ours)

    def value(state, x):
        norm = nnx.merge(graph, state)
        return norm(x, silu=True) if silu else norm(x)

    y, back = jax.vjp(value, state, jnp.asarray(x))
    d_state, dx = back(jnp.asarray(dy))

    leaf = torch.tensor(x.transpose(0, 3, 1, 2) if which == 0 else x, requires_grad=True)
    wanted = theirs(leaf)
    wanted = torch.nn.functional.silu(wanted) if silu else wanted
    wanted.backward(torch.tensor(dy.transpose(0, 3, 1, 2) if which == 0 else dy))
    back_order = (0, 2, 3, 1) if which == 0 else (0, 1, 2, 3)
    assert_close(y, wanted.detach().numpy().transpose(back_order), LAYER)
    assert leaf.grad is not None
    # Both round differently the mean of numbers around 10 with a spread of 2.
    assert_close(dx, leaf.grad.numpy().transpose(back_order), LAYER)
    assert_close(d_state["scale"][...], theirs.weight.grad.numpy(), LAYER)
    assert_close(d_state["bias"][...], theirs.bias.grad.numpy(), LAYER)


def test_a_frozen_norm_has_no_gradient_of_its_weights():
    (ours, _), _ = norms()
    x = jnp.ones((2, 4, 4, 12))
    text = jax.jit(jax.grad(lambda x: ours(x, silu=True).sum())).lower(x).as_text()
    both = jax.jit(jax.grad(lambda x, s: _with_scale(ours, s)(x, silu=True).sum(), (0, 1)))
    assert len(text) < len(both.lower(x, ours.scale[...]).as_text())


def _with_scale(norm, scale):
    graph, state = nnx.split(norm)
    state["scale"] = state["scale"].replace(scale)
    return nnx.merge(graph, state)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_come_back_and_statistics_are_of_float32(dtype):
    (ours, _), _ = norms()
    x = 100 + jnp.asarray(np.random.default_rng(2).normal(size=(2, 8, 8, 12)), dtype)
    small = nnx.merge(*nnx.split(ours))
    nnx.update(small, jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(small)))
    nnx.update(ours, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), nnx.state(small)))
    y = small(x)
    assert y.dtype == dtype
    # The same numbers in float32, rounded once.
    assert_close(y.astype(jnp.float32), ours(x.astype(jnp.float32)), jnp.finfo(dtype).eps / 2)
