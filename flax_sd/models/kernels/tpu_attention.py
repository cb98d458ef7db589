"""Attention by the Pallas kernel that JAX has for TPUs: a block's logits never leave the core.

Blocks of queries alone, as `attention.py` takes them, are written to a TPU's memory and read again
for each pass over them. The compiler cannot divide a kernel over devices, so each attends for its
own images: the mesh is that of the context (`jax.sharding.use_abstract_mesh`), and without one,
or on another platform, the kernel is not taken.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

# Queries or keys at a time. 2048 does not compile for a v5e, 1024 takes 1.7 times the memory;
# their speed was not measured.
BLOCKS = (512, 256, 128)
LANES = 128


def takes_kernel(q: Float[Array, "b n k d"], k: Float[Array, "b m k d"]) -> bool:
    """Returns whether the kernel takes such queries and keys on the devices of the context.

    It takes 16 bits, whole blocks of 128 queries and of 128 keys, heads of at most 128 or of a
    multiple of it, and a batch that divides over the devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    if mesh.empty or device is None or device.platform != "tpu":
        return False
    if q.dtype not in (jnp.bfloat16, jnp.float16) or q.shape[0] % mesh.size:
        return False
    whole = all(_block(x.shape[1]) for x in (q, k))
    return whole and (q.shape[-1] <= LANES or q.shape[-1] % LANES == 0)


def kernel_attention(
    q: Float[Array, "b n k d"], k: Float[Array, "b m k d"], v: Float[Array, "b m k d"]
) -> Float[Array, "b n k d"]:
    """Computes softmax(q kᵀ / √d) v for each head k, logits and sums in float32."""
    rows = PartitionSpec(jax.sharding.get_abstract_mesh().axis_names)
    divided = jax.shard_map(_attend, in_specs=rows, out_specs=rows, check_vma=False)
    return divided(q, k, v)


def _attend(q: Array, k: Array, v: Array) -> Array:
    """Computes one device's share."""
    # Imported here: it takes a second, not needed without a TPU.
    from jax.experimental.pallas.ops.tpu import flash_attention as pallas

    queries, keys = _block(q.shape[1]), _block(k.shape[1])
    sizes = pallas.BlockSizes(
        block_b=1,
        block_q=queries,
        block_k_major=keys,
        block_k=keys,
        block_q_major_dkv=queries,
        block_q_dkv=queries,
        block_k_major_dkv=keys,
        block_k_dkv=keys,
        block_q_dq=queries,
        block_k_major_dq=keys,
        block_k_dq=keys,
    )
    heads_second = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    out = pallas.flash_attention(*heads_second, sm_scale=scale, block_sizes=sizes)
    return jnp.swapaxes(out, 1, 2)


def _block(length: int) -> int:
    """Returns the largest block that divides the length; 0 if none does."""
    return next((block for block in BLOCKS if length % block == 0), 0)
