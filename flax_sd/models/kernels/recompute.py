"""A layer that keeps only its inputs and computes the rest again in the backward pass.

Chen et al. 2016, arXiv 1604.06174. `jax.checkpoint` leaves the order of the second computation to
the compiler, and on a CPU XLA's does those of many layers before it needs them: nothing is saved.
Here it waits for the gradient of the layer's result.
"""

from collections.abc import Callable

import jax
from flax import nnx
from jax.custom_derivatives import CustomVJPPrimal


def recomputed(call: Callable[..., jax.Array], module: object, *args: object) -> jax.Array:
    """Returns call(module, *args), keeping only the module's leaves and the args, which are trees.

    Leaves that the caller does not differentiate get no gradient: frozen weights cost nothing.
    """
    graph, state = nnx.split(module)
    leaves, structure = jax.tree.flatten((state, args))

    def plain(leaves: list[jax.Array]) -> jax.Array:
        state, args = jax.tree.unflatten(structure, leaves)
        return call(nnx.merge(graph, state), *args)

    def forward(leaves: list[CustomVJPPrimal]) -> tuple[jax.Array, tuple[list, list]]:
        moving = [leaf.value if leaf.perturbed else None for leaf in leaves]
        still = [None if leaf.perturbed else leaf.value for leaf in leaves]
        return plain([leaf.value for leaf in leaves]), (moving, still)

    def backward(saved: tuple[list, list], gradient: jax.Array) -> tuple[list]:
        moving, still = _after(gradient, *saved)

        def again(moving: list) -> jax.Array:
            return plain([b if a is None else a for a, b in zip(moving, still, strict=True)])

        return jax.vjp(again, moving)[1](gradient)

    layer = jax.custom_vjp(plain)
    layer.defvjp(forward, backward, symbolic_zeros=True)
    return layer(leaves)


def _after(gradient: jax.Array, moving: list, still: list) -> tuple[list, list]:
    """Returns the leaves; the moving ones wait until the gradient is there.

    The barrier keeps the compiler from taking the results of the forward pass instead.
    """
    zero = 0 * gradient.reshape(-1)[0]  # the compiler cannot fold it: it might be NaN
    moving = [None if x is None else x + zero.astype(x.dtype) for x in moving]
    return jax.lax.optimization_barrier((moving, still))
