"""The two ways to convolve on a CPU, and their gradients, against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flax_sd.models import layers
from flax_sd.models.kernels import convolution
from tests.parity import LAYER, assert_close

# (batch, height, width): Winograd's tiles with and without a rest, and too few pixels for it.
SHAPES = [(1, 24, 22), (3, 17, 19), (2, 16, 16), (1, 9, 6), (3, 1, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_and_gradients_are_torchs(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, (*shape, 5)).astype(np.float32)
    kernel = rng.normal(0.5, 1.0, (3, 3, 5, 7)).astype(np.float32)
    dy = rng.normal(size=(*shape, 7)).astype(np.float32)
    ours, pull = jax.vjp(convolution.conv3x3, *map(jnp.asarray, (x, kernel)))
    theirs_x = torch.tensor(np.moveaxis(x, -1, 1)).requires_grad_()
    theirs_kernel = torch.tensor(np.transpose(kernel, (3, 2, 0, 1))).requires_grad_()
    theirs = torch.conv2d(theirs_x, theirs_kernel, padding=1)
    theirs.backward(torch.tensor(np.moveaxis(dy, -1, 1)))
    dx, dkernel = pull(jnp.asarray(dy))
    assert_close(ours, np.moveaxis(theirs.detach().numpy(), 1, -1), LAYER)
    assert_close(dx, np.moveaxis(theirs_x.grad.numpy(), 1, -1), LAYER)
    assert_close(dkernel, np.transpose(theirs_kernel.grad.numpy(), (2, 3, 1, 0)), LAYER)


def compiled(pixels: int, dtype: jnp.dtype, backend: str = "cpu") -> str:
    x = jax.ShapeDtypeStruct((1, pixels, 1, 2), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, 2, 4), dtype)
    traced = jax.jit(convolution.conv3x3).trace(x, kernel)
    return traced.lower(lowering_platforms=(backend,)).as_text()


def test_the_algorithm_follows_size_dtype_and_platform():
    many, few = convolution.WINOGRAD_FROM, convolution.WINOGRAD_FROM - 1
    assert compiled(many, jnp.float32).count("dot_general") == 2 * 4  # kernels, then products
    assert compiled(few, jnp.float32).count("dot_general") == 1
    assert "convolution" in compiled(many, jnp.bfloat16)
    for backend in ("cuda", "tpu"):
        text = compiled(many, jnp.float32, backend)
        assert "stablehlo.convolution" in text and "dot_general" not in text


def test_a_frozen_kernel_keeps_no_image():
    x, kernel = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 2))

    def loss(x):
        return jnp.sum(jnp.sin(convolution.conv3x3(x, kernel)))

    text = jax.jit(jax.grad(loss)).lower(x).compile().as_text()
    assert "convolution(" not in text  # what the kernel's own gradient would be


@pytest.mark.parametrize("size", [1, 3])
def test_the_layer_adds_its_bias(size):
    layer = layers.conv(3, 4, size, rngs=nnx.Rngs(0))
    without = layer(jnp.ones((2, 5, 6, 3)))
    assert layer.bias is not None
    layer.bias[...] = jnp.arange(4.0)
    assert_close(
        layer(jnp.ones((2, 5, 6, 3))) - without, np.ones((2, 5, 6, 1)) * np.arange(4), LAYER
    )
