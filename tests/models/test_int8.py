"""Kernels in 8 bits: how near they are, their gradients, and what a step keeps of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_sd.lora.inject import attach, hold_in_int8
from flax_sd.lora.layers import LoRA
from flax_sd.lora.targets import slots
from flax_sd.models import layers
from flax_sd.models.int8 import Int8Conv, Int8Linear, in_int8, quantise
from flax_sd.system.compiler import SCHEDULER
from tests.lora.networks import small
from tests.lora.test_inject import INPUTS, random_adapters
from tests.parity import LAYER, assert_close

MADE = {
    "linear": lambda: layers.linear(10, 7, rngs=nnx.Rngs(0)),
    "conv3": lambda: layers.conv(10, 7, 3, rngs=nnx.Rngs(0)),
    "stride2": lambda: layers.conv(10, 7, 3, 2, ((0, 1), (1, 1)), bias=False, rngs=nnx.Rngs(0)),
    "conv1": lambda: layers.conv(10, 7, 1, rngs=nnx.Rngs(0)),
}


def test_values_are_the_nearest_and_each_output_has_its_scale():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 4)).astype(np.float32)
    kernel *= np.float32([1, 100, 1e-3, 0])
    values, scale = quantise(jnp.asarray(kernel))
    assert values.dtype == jnp.int8 and scale.shape == (4,)
    np.testing.assert_array_equal(np.abs(values).max((0, 1, 2)), [127, 127, 127, 0])
    error = np.abs(np.asarray(scale) * values - kernel)
    assert (error <= 0.5001 * np.asarray(scale)).all() and not error[..., 3].any()


@pytest.mark.parametrize("kind", MADE)
def test_a_layer_and_its_gradient_are_those_of_the_rounded_kernel(kind):
    layer = MADE[kind]()
    held = in_int8(layer)
    assert isinstance(held, Int8Linear if kind == "linear" else Int8Conv)
    assert held.kernel.shape == layer.kernel.shape and held.bias is layer.bias
    assert_close(held.kernel, layer.kernel[...], 0.5 / 127)
    layer.kernel[...] = held.kernel
    shape = (2, 5, 10) if kind == "linear" else (2, 6, 8, 10)
    x = 3 + jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def both(layer):
        return jax.value_and_grad(lambda x: jnp.sum(jnp.square(layer(x))))(x)

    for ours, theirs in zip(both(held), both(layer), strict=True):
        assert_close(ours, theirs, LAYER)


def test_a_chain_of_layers_never_holds_its_kernels():
    """Neither in the forward pass nor from there to the backward pass; nor the layers' inputs."""
    width, count = 128, 12
    chain = nnx.List([layers.linear(width, width, rngs=nnx.Rngs(i)) for i in range(count)])
    graph, state = nnx.split(nnx.List([in_int8(layer) for layer in chain]))

    def value(x, state):
        for layer in nnx.merge(graph, state):
            x = jnp.sin(layer(x))
        return jnp.sum(x)

    program = jax.jit(jax.grad(value), compiler_options=SCHEDULER)  # a large program's
    compiled = program.lower(jnp.ones((2, width)), state).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * 4 * width**2


def test_a_network_under_a_lora():
    model = small()
    attach(model, random_adapters(model), 1.0)
    expected = model(*INPUTS)
    hold_in_int8(model)
    table = slots(model)
    assert all(isinstance(slot.layer, LoRA) for slot in table.values())
    assert {type(slot.base) for slot in table.values()} == {Int8Linear, Int8Conv}
    out = model(*INPUTS)
    assert_close(out, expected, 0.02)
    assert not np.allclose(out, expected, rtol=1e-6)
    abstract = nnx.eval_shape(small)
    attach(abstract, random_adapters(small()), 1.0)
    hold_in_int8(abstract)
    shapes = [
        jax.tree.map(lambda x: (x.shape, x.dtype), nnx.state(one)) for one in (model, abstract)
    ]
    assert shapes[0] == shapes[1]


def test_gradients_of_a_lora_point_the_same_way():
    model = small()
    attach(model, random_adapters(model), 1.0)

    def gradient():
        graph, params, rest = nnx.split(model, nnx.LoRAParam, ...)

        def value(params):
            return jnp.square(nnx.merge(graph, params, rest)(*INPUTS)).mean()

        leaves = jax.tree.leaves(jax.jit(jax.grad(value))(params))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    plain = gradient()
    hold_in_int8(model)
    ours = gradient()
    assert ours @ plain / jnp.linalg.norm(ours) / jnp.linalg.norm(plain) > 0.99
