"""Trees in few arrays: the same tree comes back, and checkpoints do not know of it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_sd.training.flat import MAX_JOINED_SIZE, Flat, flatten, joined_like, trees

LARGE = MAX_JOINED_SIZE + 1


def tree(seed=0):
    """Leaves of several shapes and dtypes, one of them large, some in a module's state."""
    rng = np.random.default_rng(seed)
    linear = nnx.Linear(3, 2, rngs=nnx.Rngs(seed))
    own = {"a": rng.normal(size=(2, 3)), "up": rng.normal(size=5), "large": rng.normal(size=LARGE)}
    plain = {name: jnp.asarray(value, jnp.float32) for name, value in own.items()}
    return {"unet": nnx.state(linear), "text": plain | {"half": jnp.ones(4, jnp.bfloat16)}}


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_small_leaves_of_a_dtype_are_joined_and_come_back():
    made = flatten(tree())
    assert sorted(array.size for array in made.arrays) == [4, 6 + 5 + 6 + 2, LARGE]
    assert_same(made.tree(), tree())
    assert_same(made.tree_on_devices(made.starts), tree())
    assert_same(jax.tree.map(np.asarray, made).tree(), tree())
    assert_same(made.with_tree(tree(1)).tree(), tree(1))


def test_leaves_of_different_kinds_stay_apart():
    made = flatten(tree(), lambda path: path.endswith("up"))
    assert sorted(array.size for array in made.arrays) == [4, 5, 6 + 6 + 2, LARGE]
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(made)]
    assert "['text.up']" in names  # by which an optimizer knows its rate
    assert_same(made.tree(), tree())


def test_leaves_that_are_alone_may_become_anything():
    """As the 8-bit means and the factors of Adafactor, which are trees of their own."""
    made = flatten({"a": jnp.ones(3), "b": jnp.ones(2)}, kind=lambda path: path)
    odd = jax.tree.map(lambda x: (x, x.sum()), made)
    assert_same(odd.tree(), {"a": (jnp.ones(3), 3.0), "b": (jnp.ones(2), 2.0)})
    assert_same(made.with_tree(odd.tree()).tree(), odd.tree())


@pytest.mark.parametrize("on_host", [False, True])
def test_a_state_is_saved_as_trees_and_joined_again(on_host):
    made = flatten(tree())
    state = {"params": made, "mean": jax.tree.map(jnp.zeros_like, made), "starts": made.starts}
    plain = trees(state)
    assert plain["starts"] is None
    assert_same(plain["params"], tree())
    restored = joined_like(state, jax.tree.map(np.asarray, plain) if on_host else plain)
    assert_same(restored, state)


def test_where_leaves_begin_is_no_constant_of_a_program():
    """As constants each leaf has a kernel of its own, and the step compiles longer."""
    made = flatten({str(i): jnp.ones((4, 3)) * i for i in range(20)})
    lowered = jax.jit(Flat.tree).lower(made, made.starts).as_text()
    assert lowered.count("dynamic_slice") == 20
    numbers = re.findall(r"stablehlo.constant dense<(\d+)>", lowered)
    assert len(set(numbers)) <= 2, "of the check against negative indices: 0 and the length"
    assert_same(jax.jit(Flat.tree)(made, made.starts), made.tree())
