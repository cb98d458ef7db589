"""The parts that every network is made of: one convolution, one attention, two norms.

Modules carry no dtype: they compute in the dtype of their parameters, while norm statistics,
softmax and timestep embeddings are float32.
"""

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Num, UInt32

from flax_sd.models.kernels.attention import blocked_attention, takes_flash
from flax_sd.models.kernels.convolution import conv3x3
from flax_sd.models.kernels.norm import normalised
from flax_sd.models.kernels.tpu_attention import kernel_attention, takes_kernel

Linear = nnx.Linear
BLOCKED_FROM = 2**18  # queries × keys from which attention goes block by block
conv_init = nnx.initializers.lecun_normal()


class Network(nnx.Module):
    """A component with weights: a UNet, an autoencoder or a text encoder.

    Attributes:
      config: what it was built from, a frozen dataclass of its class.
    """

    config: Any


class Conv(nnx.Conv):
    """A convolution that chooses its algorithm."""

    def __call__(self, inputs: Array, out_sharding: None = None) -> Array:
        y = self.product(inputs, self.kernel[...])
        return y if self.bias is None else y + self.bias[...]

    def product(self, x: Array, kernel: Array) -> Array:
        """Returns the convolution with that kernel, without the bias."""
        window = cast(Any, (self.strides, self.padding))  # both written out, by `conv`
        if window == ((1, 1), ((1, 1), (1, 1))) and self.kernel_size == (3, 3):
            return conv3x3(x, kernel)
        if window == ((1, 1), ((0, 0), (0, 0))) and self.kernel_size == (1, 1):
            return x @ kernel[0, 0]
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, *window, dimension_numbers=numbers)


def conv(
    c_in: int,
    c_out: int,
    size: int = 3,
    stride: int = 1,
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None,
    *,
    bias: bool = True,
    zero: bool = False,
    rngs: nnx.Rngs,
) -> Conv:
    """Returns a square convolution on [b, h, w, c].

    Args:
      padding: ((top, bottom), (left, right)) in pixels; None pads (size - 1) / 2 on every side.
        Written out because "SAME" pads (0, 1) at stride 2 where torch pads (1, 1).
      zero: starts at zero, for the last convolution of a residual branch.
    """
    pad = (size - 1) // 2
    return Conv(
        c_in,
        c_out,
        (size, size),
        strides=(stride, stride),
        padding=padding or ((pad, pad), (pad, pad)),
        use_bias=bias,
        kernel_init=nnx.initializers.zeros if zero else conv_init,
        rngs=rngs,
    )


def linear(
    c_in: int, c_out: int, *, bias: bool = True, zero: bool = False, rngs: nnx.Rngs
) -> nnx.Linear:
    """Returns a linear map of the last axis; `zero` starts it at zero."""
    init = nnx.initializers.zeros if zero else conv_init
    return nnx.Linear(c_in, c_out, use_bias=bias, kernel_init=init, rngs=rngs)


class GroupNorm(nnx.GroupNorm):
    """A group norm over the last axis, of [b, …, c]."""

    def __call__(self, x: Array, *, mask: Array | None = None, silu: bool = False) -> Array:
        """Returns norm(x), or silu(norm(x))."""
        c, groups = x.shape[-1], self.num_groups
        return _norm(self, x.reshape(x.shape[0], -1, groups, c // groups), silu).reshape(x.shape)


class LayerNorm(nnx.LayerNorm):
    """A layer norm over the last axis."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        return _norm(self, x.reshape(-1, 1, 1, x.shape[-1]), silu=False).reshape(x.shape)


def _norm(norm: nnx.GroupNorm | nnx.LayerNorm, x: Array, silu: bool) -> Array:
    assert norm.scale is not None and norm.bias is not None
    scale, bias = (leaf[...].reshape(x.shape[2:]) for leaf in (norm.scale, norm.bias))
    return normalised(x, scale, bias, norm.epsilon, silu)


def group_norm(channels: int, groups: int, epsilon: float, *, rngs: nnx.Rngs) -> GroupNorm:
    """Returns a group norm."""
    return GroupNorm(channels, num_groups=groups, epsilon=epsilon, rngs=rngs)


def layer_norm(width: int, epsilon: float, *, rngs: nnx.Rngs) -> LayerNorm:
    """Returns a layer norm."""
    return LayerNorm(width, epsilon=epsilon, rngs=rngs)


def dtype_of(norm: nnx.GroupNorm | nnx.LayerNorm) -> jnp.dtype:
    """Returns the dtype that a network computes in, from a norm, which no LoRA wraps."""
    assert norm.scale is not None
    return norm.scale.dtype


def attention(
    q: Float[Array, "b n k d"],
    k: Float[Array, "b m k d"],
    v: Float[Array, "b m k d"],
    mask: Bool[Array, "n m"] | None = None,
) -> Float[Array, "b n k d"]:
    """Returns softmax(q kᵀ / √d) v for each head k, in float32 (Vaswani et al. 2017, eq. 1).

    Args:
      mask: True where a query may attend to a key; None for everywhere.
    """
    if mask is None and takes_flash(q):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    if mask is None and q.shape[1] * k.shape[1] >= BLOCKED_FROM:
        return kernel_attention(q, k, v) if takes_kernel(q, k) else blocked_attention(q, k, v)
    return _attention(q, k, v, mask)


def _attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    logits = jnp.einsum("bnkd,bmkd->bknm", q, k, preferred_element_type=jnp.float32)
    logits *= 1 / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bknm,bmkd->bnkd", weights, v)


def timestep_embedding(
    t: Num[Array, " b"], width: int, *, flip_sin_to_cos: bool, freq_shift: int | float
) -> Float[Array, "b width"]:
    """Returns sinusoids of t at `width` / 2 frequencies from 1 down to 1e-4, in float32.

    Reference: diffusers' `get_timestep_embedding`. An odd width ends in a zero.

    Args:
      flip_sin_to_cos: cosines first, as in every Stable Diffusion.
    """
    half = width // 2
    # Rounded on the host as torch rounds: an ulp of a frequency is 6e-5 of angle at t = 999.
    exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32)
    frequency = np.exp((exponent / np.float32(half - freq_shift)).astype(np.float64))
    angle = t.astype(jnp.float32)[:, None] * frequency.astype(np.float32)[None, :]
    pair = [jnp.cos(angle), jnp.sin(angle)] if flip_sin_to_cos else [jnp.sin(angle), jnp.cos(angle)]
    return jnp.pad(jnp.concatenate(pair, axis=-1), ((0, 0), (0, width % 2)))


def upsample_nearest(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Enlarges to `size` = (height, width) by nearest neighbours, as torch rounds them."""
    for axis, (old, new) in enumerate(zip(x.shape[1:3], size, strict=True), start=1):
        if new == 2 * old:
            x = jnp.repeat(x, 2, axis=axis)
        elif new != old:
            x = jnp.take(x, jnp.arange(new) * old // new, axis=axis)
    return x


gelu = functools.partial(jax.nn.gelu, approximate=False)  # the exact erf form, as in torch


@jax.checkpoint
def gated_gelu(x: Float[Array, "*b d2"]) -> Float[Array, "*b d"]:
    """Returns a · gelu(b) with [a, b] = x (Shazeer 2020, arXiv 2002.05202), keeping only x."""
    value, gate = jnp.split(x, 2, axis=-1)
    return value * gelu(gate)


def dropout(
    x: Float[Array, "b *d"], rate: float, keys: UInt32[Array, "b 2"], layer: int
) -> Float[Array, "b *d"]:
    """Sets a fraction `rate` of x to zero and divides the others by 1 - rate.

    Srivastava et al. 2014 (JMLR 15). A row's values depend on its own key, so that a batch in
    parts, or over devices, drops what it drops as a whole.

    Args:
      keys: jax.random.key_data of each row's key.
      layer: the layer's number: each drops others.
    """

    def kept(words: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(words), layer)
        return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1 - rate), 0).astype(x.dtype)


class Attention(nnx.Module):
    """(x + to_out(attention(to_q(n), to_k(n), to_v(n)))) / scale, with n = group_norm(x).

    Reference: diffusers' `Attention` with a residual connection.

    Args:
      groups: of the norm.
      epsilon: of the norm.
      zero: starts `to_out` at zero, so that a new layer changes nothing.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        epsilon: float,
        *,
        heads: int = 1,
        scale: float = 1.0,
        zero: bool = False,
        rngs: nnx.Rngs,
    ):
        self.heads, self.scale = heads, scale
        self.group_norm = group_norm(channels, groups, epsilon, rngs=rngs)
        self.to_q = linear(channels, channels, rngs=rngs)
        self.to_k = linear(channels, channels, rngs=rngs)
        self.to_v = linear(channels, channels, rngs=rngs)
        self.to_out = nnx.List([linear(channels, channels, zero=zero, rngs=rngs)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        tokens = self.group_norm(x).reshape(b, h * w, c)
        split = (b, h * w, self.heads, c // self.heads)  # [b, n, k, d]
        q, k, v = (project(tokens).reshape(split) for project in (self.to_q, self.to_k, self.to_v))
        y = attention(q, k, v).reshape(b, h, w, c)
        return (x + self.to_out[0](y)) / self.scale
