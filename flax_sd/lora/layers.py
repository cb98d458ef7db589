"""A linear or convolution with low-rank updates beside it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flax_sd.lora.dropout_masks import Masks

Layer = nnx.Linear | nnx.Conv
Leaf = jax.Array | jax.ShapeDtypeStruct  # the latter in an abstract model


class LoRAScale(nnx.Variable):
    """strength · alpha / rank as an array, so that it is an argument of a jitted function."""


class LoRAWeights(nnx.Module):
    """One named update: down and up (trained, float32), and the scale of their product.

    Laid out as nnx lays out kernels: [in, rank] and [rank, out], or [h, w, in, rank] and
    [1, 1, rank, out]. A DoRA has a magnitude too (trained, float32), [out].
    """

    def __init__(self, down: Leaf, up: Leaf, scale: Leaf, magnitude: Leaf | None = None):
        self.down, self.up = nnx.LoRAParam(down), nnx.LoRAParam(up)
        self.scale = LoRAScale(scale)
        self.magnitude = nnx.data(None if magnitude is None else nnx.LoRAParam(magnitude))

    def delta(self) -> Float[Array, "*kernel"]:
        """Returns scale · down @ up in the shape of the layer's kernel, in float32."""
        down, up = self.down[...], self.up[...]
        product = jnp.matmul(down, up.reshape(up.shape[-2:]), precision=jax.lax.Precision.HIGHEST)
        return self.scale[...] * product

    def gain(self, kernel: Float[Array, "*in out"]) -> Float[Array, " out"]:
        """Returns m / ‖W + ΔW‖ of each output of a DoRA (Liu et al. 2024, arXiv 2402.09353, eq. 5).

        The norm is held constant in the gradient, as in §4.3 there and in peft.
        """
        assert self.magnitude is not None
        total = jax.lax.stop_gradient(kernel.astype(jnp.float32) + self.delta())
        return self.magnitude[...] / output_norms(total)

    def change(self, kernel: Float[Array, "*in out"]) -> Float[Array, "*in out"]:
        """Returns what the update adds to the kernel, in float32."""
        delta = self.delta()
        if self.magnitude is None:
            return delta
        whole = kernel.astype(jnp.float32)
        return self.gain(whole) * (whole + delta) - whole


def output_norms(kernel: Float[Array, "*in out"]) -> Float[Array, " out"]:
    """Returns the norm of each output's weights."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=tuple(range(kernel.ndim - 1))))


class LoRA(nnx.Module):
    """y = base(x) + Σ scale · up(down(x)) over its adapters (Hu et al. 2021, §4.1).

    An adapter with magnitudes adds what makes W of W' = m (W + ΔW) / ‖W + ΔW‖ instead.

    It replaces its layer. For a convolution `down` has the base's kernel, stride and
    padding and `up` is 1x1, as in peft.
    """

    def __init__(self, base: Layer):
        self.base = base
        self.adapters: nnx.Dict[LoRAWeights] = nnx.Dict()
        self.masks: Masks | None = nnx.data(None)  # there in a pass of training alone

    @property
    def kernel(self) -> Any:
        """The base layer's kernel, for code that asks a layer for its dtype or shape."""
        return self.base.kernel

    @property
    def bias(self) -> nnx.Param | None:
        """The base layer's bias."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """The base layer's inputs."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """The base layer's outputs."""
        return self.base.out_features

    def __call__(self, x: Float[Array, "*b c_in"]) -> Float[Array, "*b2 c_out"]:
        base = y = self.base(x)
        for name in sorted(self.adapters):  # one order of summation, whatever the order of loading
            weights = self.adapters[name]
            down = weights.down[...].astype(x.dtype)
            # Scaled in float32, so that 16 bits round scale and weight together, once.
            up = (weights.scale[...] * weights.up[...]).astype(x.dtype)
            low = _down(self.base, x, down)
            if self.masks is not None:
                low = self.masks.between(low)
            change = low @ up.reshape(up.shape[-2:])
            if weights.magnitude is not None:
                plain = base if self.bias is None else base - self.bias[...]
                gain = weights.gain(self.kernel[...])
                change = (gain - 1).astype(x.dtype) * plain + gain.astype(x.dtype) * change
            y += change if self.masks is None else self.masks.update(change)
        return y


def _down(base: Layer, x: Float[Array, "*b c_in"], down: Array) -> Float[Array, "*b2 r"]:
    if isinstance(base, nnx.Linear):
        return x @ down
    strides, pads = _window(base)
    return jax.lax.conv_general_dilated(
        x, down, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _window(conv: nnx.Conv) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns strides and pads of a convolution that lists them."""
    plain = conv.feature_group_count == 1 and conv.kernel_dilation in (1, (1, 1))
    strides, pads = conv.strides, conv.padding
    if not plain or isinstance(strides, int | None) or isinstance(pads, str | int):
        raise ValueError(f"LoRA needs a plain convolution, strides and pads written out: {conv}")
    return list(strides), [(pad, pad) if isinstance(pad, int) else pad for pad in pads]


def down_shape(base: Layer, rank: int) -> tuple[int, ...]:
    """Returns the shape of `down` for a layer: its kernel's, with the rank in place of the outputs.

    Raises:
      ValueError: it is a convolution that a LoRA cannot follow (grouped, dilated, "SAME").
    """
    if isinstance(base, nnx.Conv):
        _window(base)
    return (*base.kernel.shape[:-1], rank)
