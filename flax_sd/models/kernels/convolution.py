"""3×3 convolutions by the algorithm that is fastest where they run.

GPUs and TPUs have their own choice of algorithms behind XLA's convolution. On a CPU XLA has one,
at 0.5 to 0.9 of the speed of its matrix product; two others, made of matrix products, beat it:

* many pixels: Winograd's F(2×2, 3×3), 16 products for 4 pixels where the sum needs 36 (Lavin and
  Gray 2015, arXiv 1509.09308, §4.1); it errs by 1e-6 of the largest value;
* few pixels, where its 16/9 as large kernels would cost more to read than they save: nine shifted
  copies of the image beside one another, and one product.

docs/performance.md has the measurements.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Float

# Pixels of a batch. The transformed kernels of a step, or of a sampler's loop, are all held at
# once: with fewer pixels they take more memory than their time is worth, 1 GiB for two rows of
# SD 1.5.
WINOGRAD_FROM = 1024


@jax.custom_vjp
def conv3x3(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """Computes the convolution at stride 1 with one pixel of zeros around."""
    return lax.platform_dependent(x, kernel, cpu=_on_cpu, default=_plain)


def _forward(
    x: CustomVJPPrimal, kernel: CustomVJPPrimal
) -> tuple[Array, tuple[Array | None, Array]]:
    """Keeps the image only for a kernel that is trained."""
    kept = x.value if kernel.perturbed else None
    return conv3x3(x.value, kernel.value), (kept, kernel.value)


def _backward(saved: tuple[Array | None, Array], dy: Array) -> tuple[Array, Array | None]:
    x, kernel = saved
    dx = lax.platform_dependent(dy, kernel, cpu=_transposed_on_cpu, default=_transposed)
    if x is None:
        return dx, None
    return dx, jax.vjp(lambda kernel: _plain(x, kernel), kernel)[1](dy)[0]


conv3x3.defvjp(_forward, _backward, symbolic_zeros=True)


def _plain(x: Array, kernel: Array) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)


def _transposed(dy: Array, kernel: Array) -> Array:
    """Returns the gradient of a convolution's image, from `dy`, that of its result."""
    x = jax.ShapeDtypeStruct((*dy.shape[:3], kernel.shape[2]), dy.dtype)
    return jax.linear_transpose(lambda x: _plain(x, kernel), x)(dy)[0]


@jax.jit
def _on_cpu(x: Array, kernel: Array) -> Array:
    if x.dtype != jnp.float32:
        return _plain(x, kernel)
    if _pixels(x) < WINOGRAD_FROM:
        return _shifted(x, kernel)
    return _winograd(x, _transform([[kernel[i, j] for j in range(3)] for i in range(3)]), 0)


@jax.jit
def _transposed_on_cpu(dy: Array, kernel: Array) -> Array:
    if dy.dtype != jnp.float32:
        return _transposed(dy, kernel)
    if _pixels(dy) < WINOGRAD_FROM:
        x = jax.ShapeDtypeStruct((*dy.shape[:3], kernel.shape[2]), dy.dtype)
        return jax.linear_transpose(lambda x: _shifted(x, kernel), x)(dy)[0]
    turned = [[kernel[2 - i, 2 - j] for j in range(3)] for i in range(3)]
    return _winograd(dy, _transform(turned), 1)


def _pixels(x: Array) -> int:
    return x.shape[0] * x.shape[1] * x.shape[2]


def _shifted(x: Array, kernel: Array) -> Array:
    b, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    views = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(9 * c, -1)


def _transform(kernel: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Returns G g Gᵀ: 3×3 matrices to 4×4."""

    def once(g: Sequence[Array]) -> list[Array]:
        even, odd = (g[0] + g[2]) / 2, g[1] / 2
        return [g[0], even + odd, even - odd, g[2]]

    columns = [once([row[j] for row in kernel]) for j in range(3)]
    return [once([columns[j][i] for j in range(3)]) for i in range(4)]


def _winograd(x: Array, kernel: list[list[Array]], contracted: int) -> Array:
    """Returns Aᵀ [kernel ⊙ (Bᵀ x B)] A, over tiles of 4×4 pixels that give 2×2 each.

    Args:
      kernel: 4×4 matrices.
      contracted: which axis of theirs is the channels of x.
    """
    b, h, w, _ = x.shape
    rows, columns = -(-h // 2), -(-w // 2)  # tiles
    x = jnp.pad(x, ((0, 0), (1, 1 + 2 * rows - h), (1, 1 + 2 * columns - w), (0, 0)))
    bands = _spread([lax.slice_in_dim(x, i, i + 2 * rows - 1, 2, axis=1) for i in range(4)])
    products = []
    for band, matrices in zip(bands, kernel, strict=True):
        views = [lax.slice_in_dim(band, j, j + 2 * columns - 1, 2, axis=2) for j in range(4)]
        dims = (((3,), (contracted,)), ((), ()))
        pairs = zip(_spread(views), matrices, strict=True)
        products.append(_gather([lax.dot_general(view, matrix, dims) for view, matrix in pairs]))
    # [b, rows, 2, columns, 2, c]
    halves = [_gather([product[j] for product in products]) for j in range(2)]
    y = jnp.stack([jnp.stack([half[i] for half in halves], axis=3) for i in range(2)], axis=2)
    return y.reshape(b, 2 * rows, 2 * columns, -1)[:, :h, :w]


def _spread(d: Sequence[Array]) -> list[Array]:
    """Returns Bᵀ d."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _gather(m: Sequence[Array]) -> list[Array]:
    """Returns Aᵀ m."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
