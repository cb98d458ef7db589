"""Attention without the matrix of all queries by all keys.

GPUs have a kernel for it in cuDNN, with limits. Elsewhere one head and one block of queries at a
time, in both directions (Dao et al. 2022, arXiv 2205.14135, Algorithms 1 and 4, without the tiling
of keys): of a block's weights only the logarithm of their sum is kept, and the backward pass makes
them again. At 64×64 latents and 8 heads the logits of one layer are 0.5 GiB, and there are 17
arrays of that size in a step that keeps them.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_sd.system.precision import compute_capability

QUERY_BLOCK = 1024  # queries at a time, at most


def takes_flash(q: Float[Array, "b n k d"]) -> bool:
    """Returns whether cuDNN has a fused kernel for such queries on this GPU.

    It must be asked for by name, and raises where it has none: it takes 16 bits, from Ampere
    (compute capability 8.0) on, with heads a multiple of 8 wide and at most 128, 256 on Hopper.
    A GPU without such a number is not NVIDIA's and has no cuDNN.
    """
    if jax.default_backend() != "gpu" or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    capability = compute_capability(jax.devices()[0]) or 0.0
    widest = 256 if capability >= 9 else 128
    return capability >= 8 and q.shape[-1] % 8 == 0 and q.shape[-1] <= widest


@jax.custom_vjp
def blocked_attention(
    q: Float[Array, "b n k d"], k: Float[Array, "b m k d"], v: Float[Array, "b m k d"]
) -> Float[Array, "b n k d"]:
    """Computes softmax(q kᵀ / √d) v for each head k; logits, weights and sums in float32."""
    return _forward(q, k, v)[0]


@jax.jit
def _forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    def head(one: tuple[Array, ...]) -> tuple[Array, Array]:
        rows, keys, values = one
        return lax.map(lambda block: _attend(block, keys, values), rows)

    out, log_sums = lax.map(head, (_blocks(_scaled(q)), _heads_first(k), _heads_first(v)))
    out = _unblocked(out, q.shape[1])
    return out, (q, k, v, out, log_sums)


def _attend(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """Returns a block's outputs, and the logarithm of its softmax's sum."""
    logits = _product("bnd,bmd->bnm", q, k)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = _product("bnm,bmd->bnd", weights.astype(v.dtype), v) / total
    return out.astype(v.dtype), (largest + jnp.log(total))[..., 0]


@jax.jit
def _backward(saved: tuple[Array, ...], dout: Array) -> tuple[Array, Array, Array]:
    q, k, v, out, log_sums = saved
    # d weights · weights summed over the keys, without the weights: eq. 4 of the paper's §B.2.
    along = jnp.sum(dout.astype(jnp.float32) * out, axis=-1, keepdims=True)
    blocks = (_blocks(_scaled(q)), _blocks(dout), log_sums, _blocks(along)[..., 0])

    def head(one: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        q, dout, log_sums, along, keys, values = one

        def block(sums: tuple[Array, Array], row: tuple[Array, ...]) -> tuple[tuple, Array]:
            dq, dk, dv = _attend_backward(row, keys, values)
            return (sums[0] + dk, sums[1] + dv), _scaled(dq).astype(q.dtype)

        b, m, d = keys.shape
        zero = jnp.zeros((b, d, m), jnp.float32)
        (dk, dv), dq = lax.scan(block, (zero, zero), (q, dout, log_sums, along))
        return dq, dk.astype(k.dtype), dv.astype(v.dtype)

    dq, dk, dv = lax.map(head, (*blocks, _heads_first(k), _heads_first(v)))
    dk, dv = (jnp.transpose(x, (1, 3, 0, 2)) for x in (dk, dv))  # from [k, b, d, m]
    return _unblocked(dq, q.shape[1]), dk, dv


def _attend_backward(row: tuple[Array, ...], k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Returns the gradients of a block's queries, and its share of those of keys and values.

    The latter two are [b, d, m]: with the long axis last a CPU's product is four times as fast.
    """
    q, dout, log_sum, along = row
    weights = jnp.exp(_product("bnd,bmd->bnm", q, k) - log_sum[..., None])
    dv = _product("bnd,bnm->bdm", dout, weights.astype(dout.dtype))
    dweights = _product("bnd,bmd->bnm", dout, v)
    dlogits = (weights * (dweights - along[..., None])).astype(q.dtype)
    dk = _product("bnd,bnm->bdm", q, dlogits)
    return _product("bnm,bmd->bnd", dlogits, k), dk, dv


blocked_attention.defvjp(_forward, _backward)


def _product(axes: str, a: Array, b: Array) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


def _scaled(q: Array) -> Array:
    return q / math.sqrt(q.shape[-1])


def _heads_first(x: Array) -> Array:
    """Transposes [b, m, k, d] to [k, b, m, d]."""
    return jnp.moveaxis(x, 2, 0)


def _blocks(x: Array) -> Array:
    """Splits [b, n, k, d] into [k, blocks, b, queries, d], filled up with zeros."""
    b, n, heads, d = x.shape
    blocks = -(-n // QUERY_BLOCK)
    size = -(-n // blocks)
    x = jnp.pad(x, ((0, 0), (0, blocks * size - n), (0, 0), (0, 0)))
    return jnp.transpose(x.reshape(b, blocks, size, heads, d), (3, 1, 0, 2, 4))


def _unblocked(x: Array, n: int) -> Array:
    """Joins what `_blocks` split: [k, blocks, b, queries, d] to [b, n, k, d]."""
    heads, blocks, b, size, d = x.shape
    return jnp.transpose(x, (2, 1, 3, 0, 4)).reshape(b, blocks * size, heads, d)[:, :n]
