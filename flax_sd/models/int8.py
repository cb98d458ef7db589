"""Frozen linears and convolutions with kernels in 8 bits.

W ≈ scale · values, whole numbers from -127 to 127 and a scale for each output: symmetric
quantisation per output channel (Jacob et al. 2018, arXiv 1712.05877, §2.1 with Z = 0). The kernel
is made where it is used, in the forward and again in the backward pass, and not kept between them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int8

from flax_sd.models import layers

LARGEST = 127
Product = Callable[[Array, Array], Array]  # input, kernel -> the layer's output without its bias


class KernelValues(nnx.Variable):
    """The integers of a kernel, in its layout."""


class KernelScale(nnx.Variable):
    """The scale of each output's integers; float32."""


class _Int8Kernel(nnx.Module):
    """A layer's kernel in 8 bits."""

    bias: nnx.Param | None

    def _take(self, layer: nnx.Linear | nnx.Conv) -> None:
        kernel = layer.kernel.get_value()
        abstract = isinstance(kernel, jax.ShapeDtypeStruct)
        values, scale = jax.eval_shape(quantise, kernel) if abstract else quantise(kernel)
        self.kernel_values, self.kernel_scale = KernelValues(values), KernelScale(scale)
        self.kernel_dtype = kernel.dtype
        for name, value in vars(layer).items():
            if name != "kernel" and not name.startswith("_"):
                setattr(self, name, value)

    @property
    def kernel(self) -> Array:
        """The kernel [*in, out] as the layer computes with it."""
        return dequantise(self.kernel_values[...], self.kernel_scale[...], self.kernel_dtype)

    def _output(self, product: Product, x: Array) -> Array:
        y = frozen_product(product, x, self.kernel_values[...], self.kernel_scale[...])
        return y if self.bias is None else y + self.bias[...]


class Int8Linear(_Int8Kernel, nnx.Linear):
    """A frozen linear map."""

    def __init__(self, layer: nnx.Linear):
        self._take(layer)

    def __call__(self, inputs: Float[Array, "*b c_in"], out_sharding: None = None) -> Array:
        return self._output(jnp.matmul, inputs)


class Int8Conv(_Int8Kernel, layers.Conv):
    """A frozen convolution."""

    def __init__(self, layer: nnx.Conv):
        self._take(layer)

    def __call__(self, inputs: Float[Array, "b h w c_in"], out_sharding: None = None) -> Array:
        return self._output(self.product, inputs)


def in_int8(layer: nnx.Linear | nnx.Conv) -> Int8Linear | Int8Conv:
    """Returns the layer, frozen, with its kernel in 8 bits; abstract for an abstract layer."""
    return Int8Linear(layer) if isinstance(layer, nnx.Linear) else Int8Conv(layer)


@jax.jit
def quantise(kernel: Float[Array, "*in out"]) -> tuple[Int8[Array, "*in out"], Array]:
    """Returns the nearest integers, and the scale of each output; 1 for an output of zeros."""
    kernel = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
    scale = jnp.where(largest > 0, largest / LARGEST, 1.0)
    return jnp.round(kernel / scale).astype(jnp.int8), scale


def dequantise(
    values: Int8[Array, "*in out"], scale: Float[Array, " out"], dtype: jnp.dtype
) -> Float[Array, "*in out"]:
    """Returns scale · values, rounded once."""
    return (scale * values.astype(jnp.float32)).astype(dtype)


def frozen_product(
    product: Product, x: Float[Array, "*b c_in"], values: Array, scale: Array
) -> Float[Array, "*b2 c_out"]:
    """Returns product(x, kernel), with neither kernel nor x kept for the backward pass."""
    shape, dtype = x.shape, x.dtype

    def plain(x: Array, values: Array, scale: Array) -> Array:
        return product(x, dequantise(values, scale, dtype))

    def forward(x: Array, values: Array, scale: Array) -> tuple[Array, tuple[Array, Array]]:
        return plain(x, values, scale), (values, scale)

    def backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, None, None]:
        # It waits for the gradient; else the compiler takes the forward pass's, and holds it.
        values, scale = saved
        zero = 0 * dy.reshape(-1)[0]  # the compiler cannot fold it: it might be NaN
        kernel = dequantise(values, scale + zero.astype(scale.dtype), dtype)
        (dx,) = jax.vjp(lambda x: product(x, kernel), jnp.zeros(shape, dtype))[1](dy)
        return dx, None, None

    layer = jax.custom_vjp(plain)
    layer.defvjp(forward, backward)
    return layer(x, values, scale)
