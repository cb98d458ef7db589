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
import numpy as np
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Float

# Pixels of a batch. The transformed kernels of a step, or of a sampler's loop, are all held at
# once: with fewer pixels they take more memory than their time is worth, 1 GiB for two rows of
# SD 1.5.
WINOGRAD_FROM = 1024
# G of F(2, 3), §2, in pairs of its rows: first and last, second and third. A pair is one array, so
# that the compiler has one function in place of several; a step at the size of SD 1.5 has hundreds.
ENDS = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
MIDDLES = np.array([[0.5, 0.5, 0.5], [0.5, -0.5, 0.5]], np.float32)
SIGNS = np.array([1, -1], np.float32)


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
    return _winograd(x, kernel, transposed=False)


@jax.jit
def _transposed_on_cpu(dy: Array, kernel: Array) -> Array:
    if dy.dtype != jnp.float32:
        return _transposed(dy, kernel)
    if _pixels(dy) < WINOGRAD_FROM:
        return _shifted_back(dy, kernel)
    return _winograd(dy, kernel, transposed=True)


def _pixels(x: Array) -> int:
    return x.shape[0] * x.shape[1] * x.shape[2]


def _shifted(x: Array, kernel: Array) -> Array:
    b, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    views = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(9 * c, -1)


def _shifted_back(dy: Array, kernel: Array) -> Array:
    """Returns the gradient of the image: each pixel's share in the sums of its neighbours.

    The transpose of `_shifted` is the same sum in ten functions, each of which is compiled.
    """
    b, h, w, _ = dy.shape
    shares = (dy @ kernel.reshape(-1, kernel.shape[3]).T).reshape(b, h * w * 9, -1)
    opposite = 9 * _neighbours(h, w) + 8 - np.arange(9)
    dx = [_taken(shares, opposite[:, k]) for k in range(9)]
    return sum(dx[1:], dx[0]).reshape(b, h, w, -1)


def _neighbours(h: int, w: int) -> np.ndarray:
    """Returns the positions of each pixel's 3×3 neighbours, [h·w, 9]; h·w for those outside."""
    i, j = np.indices((h + 2, w + 2)) - 1
    inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
    padded = np.where(inside, i * w + j, h * w)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(h * w, 9)


def _taken(x: Float[Array, "b n c"], positions: np.ndarray) -> Array:
    """Returns x at these positions, and 0 past the last."""
    return jnp.take(x, positions, axis=1, mode="fill", fill_value=0)


def _winograd(x: Array, kernel: Array, transposed: bool) -> Array:
    """Returns Aᵀ [G kernel Gᵀ ⊙ Bᵀ x B] A, over tiles of 4×4 pixels that give 2×2 each.

    Args:
      transposed: with the kernel turned by 180° and its two kinds of channels exchanged.
    """
    b, h, w, c = x.shape
    rows, columns = -(-h // 2), -(-w // 2)  # tiles
    x = jnp.pad(x, ((0, 0), (1, 1 + 2 * rows - h), (1, 1 + 2 * columns - w), (0, 0)))
    x = x.reshape(b, rows + 1, 2, columns + 1, 2, c).transpose(2, 4, 0, 1, 3, 5)
    halves = []
    for band, of_rows in zip(_spread(x, 0), (ENDS, MIDDLES), strict=True):
        products = []
        for views, of_columns in zip(_spread(band, 1), (ENDS, MIDDLES), strict=True):
            matrices = _transform(kernel, np.kron(of_rows, of_columns), transposed)
            dims = (((2,), (2 if transposed else 1,)), ((0,), (0,)))
            product = lax.dot_general(views.reshape(4, -1, c), matrices, dims)
            products.append(product.reshape(2, 2, b, rows, columns, -1))
        halves.append(_gather(products, 1))
    y = _gather(halves, 0).transpose(2, 3, 0, 4, 1, 5)
    return y.reshape(b, 2 * rows, 2 * columns, -1)[:, :h, :w]


def _transform(kernel: Array, coefficients: np.ndarray, turned: bool) -> Array:
    """Returns four of the sixteen matrices G kernel Gᵀ, [4, i, o], from their 4×9 coefficients."""
    if turned:
        coefficients = coefficients[:, ::-1]
    return (jnp.asarray(coefficients) @ kernel.reshape(9, -1)).reshape(4, *kernel.shape[2:])


def _spread(x: Array, axis: int) -> tuple[Array, Array]:
    """Returns Bᵀ d of tiles that overlap by half, in pairs.

    Args:
      x: [2, 2, b, rows, columns, c], in which tile k has row 0 and 1 of k and of k + 1.
      axis: of the 2; tiles are counted along the third after it.
    """
    above = lax.slice_in_dim(x, 0, -1, axis=axis + 3)
    below = lax.slice_in_dim(x, 1, None, axis=axis + 3)
    second = lax.slice_in_dim(above, 1, 2, axis=axis)
    third = lax.slice_in_dim(below, 0, 1, axis=axis)
    return above - below, third + _signs(axis) * second


def _gather(pairs: Sequence[Array], axis: int) -> Array:
    """Returns Aᵀ m of tiles in pairs, [2, 2, b, rows, columns, c]."""
    ends, middles = pairs
    second, third = jnp.split(middles, 2, axis)
    return second + _signs(axis) * (ends + third)


def _signs(axis: int) -> np.ndarray:
    return SIGNS.reshape(2, *(1,) * (5 - axis))
