"""The base in 8 bits at the size of SD 1.5 or 2.1, with random weights: memory and gradients.

python -m benchmarks.compiled.int8 sd15 [--side 32] [--dtype float32]

Prints the bytes of the frozen UNet in both forms and, by the compiler's memory analysis, of what
the gradient takes beside them; then the cosine between the gradients of a LoRA (rank 4, attention,
both halves random) on the two, over all of its leaves together and of the worst leaf.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.common.real_size import FAMILIES
from flax_sd.lora.inject import hold_in_int8, inject
from flax_sd.system.program import jit
from flax_sd.weights.networks import abstract_network

TOKENS = 77


def random_unet(family: str, dtype: str) -> Any:
    """The network with a LoRA, every kernel drawn anew and so that its outputs keep their size."""
    unet = abstract_network(FAMILIES[family]["unet"], family)
    inject(unet, "attention", 4, None, "gaussian", jax.random.key(0))
    graph, state = nnx.split(unet)
    rng, filled = np.random.default_rng(0), []
    for path, var in nnx.to_flat_state(state):
        shape = var.get_value().shape
        value = np.ones(shape, np.float32) if path[-1] == "scale" else np.zeros(shape, np.float32)
        if len(shape) > 1:
            value = rng.standard_normal(shape, np.float32) / np.prod(shape[:-1]) ** 0.5
        own = jnp.float32 if isinstance(var, nnx.LoRAParam) or not shape else jnp.dtype(dtype)
        filled.append((path, var.replace(jnp.asarray(value, own))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def gradients(unet: Any, side: int, width: int, label: str) -> list[np.ndarray]:
    """The gradient of each leaf of the LoRA; prints what its program takes."""
    graph, params, frozen = nnx.split(unet, nnx.LoRAParam, ...)
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((1, side, side, 4), np.float32)
    text = rng.standard_normal((1, TOKENS, width), np.float32)

    def loss(params: Any, frozen: Any) -> jax.Array:
        out = nnx.merge(graph, params, frozen)(latents, jnp.array([500]), text)
        return jnp.mean(jnp.square(out.astype(jnp.float32) - latents))

    compiled = jit(jax.grad(loss)).lower(params, frozen).compile()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(frozen)) / 1e9
    analysis = compiled.memory_analysis()
    assert analysis is not None, "CPUs and TPUs have one"
    beside = analysis.temp_size_in_bytes / 1e9
    print(f"{label}: frozen {held:.3f} GB, beside it {beside:.3f} GB", flush=True)
    return [np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(compiled(params, frozen))]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two vectors."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def main() -> None:
    """Measures the float base, then the same in 8 bits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    unet = random_unet(options.family, options.dtype)
    width = unet.config.cross_attention_dim
    plain = gradients(unet, options.side, width, options.dtype)
    hold_in_int8(unet)
    held = gradients(unet, options.side, width, "int8")
    whole = cosine(np.concatenate(plain), np.concatenate(held))
    worst = min(cosine(a, b) for a, b in zip(plain, held, strict=True))
    print(f"cosine of the gradients {whole:.5f}, of the worst leaf {worst:.5f}")


if __name__ == "__main__":
    main()
