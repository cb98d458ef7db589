"""3×3 convolutions and attention by themselves on a CPU: what they choose from, and torch's.

python -m benchmarks.against_torch.kernels [--save]
python -m benchmarks.against_torch.kernels --small

GFLOP/s of the direct sum's operations, whichever way it is computed; median of the runs, after one
to warm up. float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.against_torch.sides import torch_kernels
from benchmarks.common.options import add_common
from benchmarks.common.rows import Row, Rows
from flax_sd.models import layers
from flax_sd.models.kernels import convolution

# Height and width, channels in and out: those of SD 1.5 at 512 pixels.
CONVOLUTIONS = [
    (64, 320, 320),
    (64, 960, 320),
    (32, 640, 640),
    (16, 1280, 1280),
    (16, 2560, 1280),
    (8, 1280, 1280),
]
ATTENTION = (4096, 8, 40)  # positions, heads, width of a head
NEVER, ALWAYS = 2**62, 0  # pixels from which Winograd's algorithm is taken


def median(run: Callable[[], Any], repeats: int) -> float:
    """Seconds."""
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def ours(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """A call that computes it."""
    compiled = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(compiled(*args))


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's convolution."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def image_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """(x, kernel, dy) -> dx."""
    return lambda x, kernel, dy: jax.vjp(lambda x: function(x, kernel), x)[1](dy)[0]


def convolution_row(shape: tuple[int, int, int], batch: int, backward: bool, repeats: int) -> Row:
    """One shape, one direction, every algorithm."""
    side, c_in, c_out = shape
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(batch, side, side, c)).astype(np.float32) for c in (c_in, c_out))
    kernel = rng.normal(size=(3, 3, c_in, c_out)).astype(np.float32)
    flops = 2 * 9 * batch * side**2 * c_in * c_out / 1e9
    args = tuple(map(jnp.asarray, (x, kernel, dy) if backward else (x, kernel)))
    turn = image_gradient if backward else lambda function: function
    rates = {"XLA": flops / median(ours(turn(plain), *args), repeats)}
    usual = convolution.WINOGRAD_FROM
    for name, bound in (("shifted views", NEVER), ("Winograd", ALWAYS), ("chosen", usual)):
        jax.clear_caches()
        convolution.WINOGRAD_FROM = bound
        rates[name] = flops / median(ours(turn(convolution.conv3x3), *args), repeats)
    convolution.WINOGRAD_FROM = usual
    rates["torch"] = flops / median(torch_kernels.convolution(x, kernel, dy, backward), repeats)
    direction = "gradient of the image, " if backward else ""
    return {"work": f"{direction}{side}×{side}, {c_in} → {c_out}, batch {batch}", **rates}


def attention_row(name: str, shape: tuple[int, int, int], backward: bool, repeats: int) -> Row:
    """Milliseconds of one way to attend."""
    positions, heads, width = shape
    qkv = np.random.default_rng(0).normal(size=(3, 1, positions, heads, width)).astype(np.float32)
    if name == "torch":
        run = torch_kernels.attention(qkv, backward)
    else:
        ways = {"jax.nn": jax.nn.dot_product_attention, "chosen": layers.attention}

        def value(q: Any, k: Any, v: Any) -> Any:
            return jnp.sum(jnp.square(ways[name](q, k, v)))

        function = jax.grad(value, (0, 1, 2)) if backward else ways[name]
        run = ours(function, *map(jnp.asarray, qkv))
    direction = "forward and backward" if backward else "forward"
    label = f"attention, {positions} positions, {heads} heads of {width}, {direction}"
    return {"work": label, "by": name, "ms": median(run, repeats) * 1e3}


def main() -> None:
    """Measures, kernel by kernel."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    options = parser.parse_args()
    rows, repeats = Rows(), 1 if options.small else options.repeats
    shapes = [(8, 16, 24)] if options.small else CONVOLUTIONS
    attended = (512, 2, 8) if options.small else ATTENTION
    for backward in (False, True):
        for shape in shapes:
            rows.add(convolution_row(shape, 1, backward, repeats))
    for backward in (False, True):
        for name in ("jax.nn", "chosen", "torch"):
            rows.add(attention_row(name, attended, backward, repeats))
    if options.save:
        rows.save("kernels")


if __name__ == "__main__":
    main()
