"""Counted operations against those worked out by hand."""

import jax
import jax.numpy as jnp
import pytest

from flax_sd.system.flops import count_flops


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def conv(x, w, **options):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, **options, dimension_numbers=layout)


def test_a_product_is_two_a_multiply_add():
    assert count_flops(jnp.matmul, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
    assert count_flops(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(2, 3, 4), shape(2, 4, 5)
    ) == (2 * 2 * 3 * 4 * 5)


@pytest.mark.parametrize(("stride", "side"), [(1, 8), (2, 4)])
def test_a_convolution_sees_its_whole_kernel(stride, side):
    def function(x, w):
        return conv(x, w, window_strides=(stride, stride), padding=((1, 1), (1, 1)))

    assert (
        count_flops(function, shape(2, 8, 8, 3), shape(3, 3, 3, 5)) == 2 * 2 * side**2 * 9 * 3 * 5
    )


def test_groups_see_their_own_channels():
    def function(x, w):
        return conv(x, w, window_strides=(1, 1), padding="SAME", feature_group_count=2)

    assert count_flops(function, shape(1, 4, 4, 6), shape(1, 1, 3, 8)) == 2 * 16 * 3 * 8


def test_the_gradient_of_a_strided_convolution_is_twice_its_forward_pass():
    def function(x, w):
        return conv(x, w, window_strides=(2, 2), padding=((1, 1), (1, 1))).sum()

    shapes = shape(1, 8, 8, 3), shape(3, 3, 3, 5)
    forward = count_flops(function, *shapes)
    assert count_flops(jax.grad(function, argnums=(0, 1)), *shapes) == pytest.approx(3 * forward)


def test_a_loop_counts_each_turn_and_nested_programs_count():
    def function(x, w):
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.matmul)(c, w), None), x, None, length=7)[0]

    assert count_flops(function, shape(3, 4), shape(4, 4)) == 7 * 2 * 3 * 4 * 4


def test_recomputation_is_counted():
    def function(x, w):
        return jax.checkpoint(lambda v: jnp.sin(v @ w))(x).sum()

    plain = count_flops(jax.grad(lambda x, w: jnp.sin(x @ w).sum()), shape(3, 4), shape(4, 5))
    assert count_flops(jax.grad(function), shape(3, 4), shape(4, 5)) == plain * 3 // 2


def test_a_choice_between_algorithms_counts_as_the_larger():
    def function(a, b):
        return jax.lax.platform_dependent(a, b, cpu=jnp.dot, default=lambda a, b: 2 * jnp.dot(a, b))

    assert count_flops(function, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
