"""Adam's means in 8 bits: blocks of 256 numbers, each a code of a fixed table times a scale.

Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization": §2.1 (blocks) and appendix of
§1.3 (the dynamic tree table: few bits for the exponent of large numbers, more for small ones).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, PyTree, UInt8

from flax_sd.training.optim.transforms import Beta, Number, corrections

BLOCK = 256  # numbers, as bitsandbytes has for optimizer states
MIN_SIZE = 4096  # numbers; smaller leaves stay in float32, as in bitsandbytes (min_8bit_size)


class Quantised(NamedTuple):
    """A leaf as codes of a table and each block's largest magnitude."""

    codes: UInt8[Array, "blocks 256"]
    largest: Float32[Array, " blocks"]


Mean = Array | Quantised


class Adam8BitState(NamedTuple):
    """Steps done, and both means; large leaves are quantised."""

    done: jax.Array
    mu: PyTree
    nu: PyTree


@functools.cache
def table(*, signed: bool) -> Float32[np.ndarray, " 256"]:
    """Returns the 256 values in [-1, 1] or [0, 1] that codes stand for, in order.

    Decade e of 10⁻⁶ … 10⁰ is divided evenly into as many values as the remaining bits can count.
    """
    bits = 7 if signed else 8  # without the sign
    values = [0.0, 1.0]
    for decade in range(7):
        # One bit ends the run of zeros that is the decade; lower decades have fewer bits left.
        fields = 2 ** (decade + bits - 7) + 1
        edges = np.linspace(0.1, 1.0, fields)
        values += (10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2).tolist()
    if signed:
        values += [-value for value in values if 0 < value < 1]
    return np.sort(np.pad(values, (0, 256 - len(values)))).astype(np.float32)


def quantise(x: Float[Array, "..."], *, signed: bool) -> Quantised:
    """Returns each number as the nearest code of its block."""
    flat = jnp.pad(x.reshape(-1), (0, -x.size % BLOCK)).reshape(-1, BLOCK)
    largest = jnp.abs(flat).max(1)
    values = table(signed=signed)
    middles = jnp.asarray((values[1:] + values[:-1]) / 2)
    shares = flat / jnp.where(largest > 0, largest, 1.0)[:, None]
    return Quantised(jnp.searchsorted(middles, shares).astype(jnp.uint8), largest)


def restore(q: Quantised, shape: tuple[int, ...], *, signed: bool) -> Float32[Array, "..."]:
    """Returns the numbers that the codes stand for."""
    values = jnp.asarray(table(signed=signed))[q.codes] * q.largest[:, None]
    return values.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def scale_by_adam_8bit(beta1: Beta, beta2: Beta, epsilon: Number) -> optax.GradientTransformation:
    """Builds m̂ / (√v̂ + ε) of Adam, with both means in 8 bits between steps."""

    def keep(x: Array, *, signed: bool) -> Mean:
        return x if x.size < MIN_SIZE else quantise(x, signed=signed)

    def read(kept: Mean, like: Array, *, signed: bool) -> Array:
        quantised = isinstance(kept, Quantised)
        return restore(kept, like.shape, signed=signed) if quantised else kept

    def init(params: PyTree) -> Adam8BitState:
        mu, nu = (
            jax.tree.map(lambda p, s=signed: keep(jnp.zeros_like(p), signed=s), params)
            for signed in (True, False)
        )
        return Adam8BitState(jnp.zeros((), jnp.int32), mu, nu)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, Adam8BitState]:
        done = state.done + 1
        c1, c2 = corrections(beta1, beta2, done)

        def one(g: Array, kept_m: Mean, kept_v: Mean) -> tuple[Array, Mean, Mean]:
            m = beta1.value * read(kept_m, g, signed=True) + beta1.rest * g
            v = beta2.value * read(kept_v, g, signed=False) + beta2.rest * g * g
            scaled = m / c1 / (jnp.sqrt(v) / c2 + epsilon)
            return scaled, keep(m, signed=True), keep(v, signed=False)

        leaves, tree = jax.tree.flatten(updates)
        means = (tree.flatten_up_to(kept) for kept in (state.mu, state.nu))
        rows = [one(g, m, v) for g, m, v in zip(leaves, *means, strict=True)]
        scaled, mu, nu = (tree.unflatten(column) for column in zip(*rows, strict=True))
        return scaled, Adam8BitState(done, mu, nu)

    return optax.GradientTransformation(init, update)
