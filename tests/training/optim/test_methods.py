"""Each method: the steps of its reference where there is one, and that it learns."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.optimization import Adafactor

from flax_sd.config import OptimConfig
from flax_sd.config import optim as config
from flax_sd.training import optim
from flax_sd.training.optim.methods import DIRECTIONS, SELF_RATED
from flax_sd.training.step import init_state

TOTAL = 60
METHODS = typing.get_args(OptimConfig.model_fields["method"].annotation)
RATES = {"prodigy": 1.0, "dadapt": 1.0, "lion": 0.02, "muon": 0.02, "sgd": 0.05, "adafactor": 5e-3}


def make(method, **values):
    given = {"learning_rate": 0.03, "weight_decay": 0.1, "max_grad_norm": 0.0} | values
    return optim.make_optimizer(OptimConfig(method=method, **given), TOTAL)


def our_steps(tx, start, grads):
    """The leaf after a step for each gradient."""
    params = {"unet": {"w": jnp.asarray(start)}}
    state, update = tx.init(params), jax.jit(tx.update)
    for grad in grads:
        updates, state = update({"unet": {"w": jnp.asarray(grad)}}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return np.asarray(params["unet"]["w"])


def their_steps(make_torch, start, grads):
    leaf = torch.nn.Parameter(torch.tensor(start))
    optimizer = make_torch([leaf])
    for grad in grads:
        leaf.grad = torch.tensor(grad)
        optimizer.step()
    return leaf.detach().numpy()


@pytest.fixture(params=[(5, 7), (7, 3), (6,)], ids=str)
def leaf(request):
    """A leaf and five gradients, of sizes far apart."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=request.param).astype(np.float32)
    sizes = [0.02, 1.0, 0.05, 3.0, 0.3]
    return start, [(s * rng.normal(size=request.param)).astype(np.float32) for s in sizes]


def assert_moved_alike(start, ours, theirs):
    moved = np.linalg.norm(theirs - start)
    assert moved > 0 and np.linalg.norm(ours - theirs) <= 1e-5 * moved


def test_sgd_is_torchs(leaf):
    start, grads = leaf
    # torch couples the decay to the gradient; ours stands apart as everywhere here.
    theirs = their_steps(lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9), start, grads)
    assert_moved_alike(start, our_steps(make("sgd", weight_decay=0.0), start, grads), theirs)


def test_adafactor_is_transformers(leaf):
    def make_torch(leaves):
        fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
        return Adafactor(leaves, lr=0.03, weight_decay=0.1, **fixed)

    start, grads = leaf
    theirs = their_steps(make_torch, start, grads)
    # Its decay is of the leaf before the step as ours, times the rate.
    assert_moved_alike(start, our_steps(make("adafactor"), start, grads), theirs)


def test_lion_is_the_papers(leaf):
    start, grads = leaf
    theta, mean = start.copy(), np.zeros_like(start)
    for grad in grads:
        theta = theta - 0.03 * (np.sign(0.9 * mean + 0.1 * grad) + 0.1 * theta)
        mean = 0.99 * mean + 0.01 * grad
    assert_moved_alike(start, our_steps(make("lion"), start, grads), theta)


def test_muon_steps_are_nearly_orthogonal_for_matrices_and_adams_for_the_rest():
    rng = np.random.default_rng(0)
    grad = rng.normal(size=(24, 10)).astype(np.float32)
    step = our_steps(make("muon", weight_decay=0.0, learning_rate=1.0), np.zeros_like(grad), [grad])
    spread = np.linalg.svd(step, compute_uv=False)
    assert 0.5 < spread.min() and spread.max() < 2.0  # five Newton-Schulz steps come so near
    vector = grad[0]
    step = our_steps(make("muon", weight_decay=0.0), 0 * vector, [vector])
    # Adam's first step is as long for each number.
    np.testing.assert_allclose(step, -np.sign(vector) * np.abs(step[0]), rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns(method):
    """A regression by a 64 x 80 matrix, which is large enough for 8 bits."""
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.normal(size=(64, 80)).astype(np.float32) / 8)
    inputs = jnp.asarray(rng.normal(size=(128, 64)).astype(np.float32))

    def loss(params):
        return jnp.mean((inputs @ params["unet"]["w"] - inputs @ target) ** 2)

    cfg = OptimConfig(method=method, learning_rate=RATES.get(method, 0.03), weight_decay=0.0)
    tx = optim.make_optimizer(cfg, 400)
    state = init_state({"unet": {"w": jnp.zeros((64, 80))}}, tx, 0, scaled=False)
    before = loss(state.learned)

    @jax.jit
    def step(state):
        grads = state.params.with_tree(jax.grad(loss)(state.params.tree()))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        return state._replace(params=params, opt_state=opt_state)

    for _ in range(400):
        state = step(state)
    assert loss(state.learned) < 0.02 * before


def test_what_schedule_free_learned_is_its_mean():
    tx = make("schedule_free", learning_rate=0.5, weight_decay=0.0)
    state = init_state({"unet": {"w": jnp.zeros(1)}}, tx, 0, scaled=False)
    seen, params, opt_state = [], state.params, state.opt_state
    for grad in (1.0, -1.0, 1.0, 1.0):
        grads = params.with_tree({"unet": {"w": jnp.full(1, grad)}})
        updates, opt_state = tx.update(grads, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        seen.append(float(opt_state.z.tree()["unet"]["w"][0]))
    state = state._replace(params=params, opt_state=opt_state)
    # Defazio et al. 2024, eq. 10: with a constant rate, the mean of all z.
    np.testing.assert_allclose(state.learned["unet"]["w"][0], np.mean(seen), rtol=1e-5)
    assert abs(float(params.tree()["unet"]["w"][0] - state.learned["unet"]["w"][0])) > 1e-3


def test_the_config_knows_the_methods():
    assert set(METHODS) == {*DIRECTIONS, *SELF_RATED, "schedule_free"}
    assert set(config.SELF_RATED) == set(SELF_RATED)


BYTES = {  # of state for each trained number of a matrix: the table in docs/optimizers.md
    "adamw": 8,
    "adamw8bit": 2.03,
    "lion": 4,
    "adafactor": 0.01,
    "sgd": 4,
    "muon": 4,
    "prodigy": 16,
    "dadapt": 12,
    "schedule_free": 8,
}


@pytest.mark.parametrize("method", METHODS)
def test_what_the_state_takes(method):
    params = {"unet": {"w": jax.ShapeDtypeStruct((1280, 1280), jnp.float32)}}
    state = jax.eval_shape(make(method, learning_rate=1.0).init, params)
    taken = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 1280**2
    assert taken == pytest.approx(BYTES[method], abs=0.01)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "adafactor"])
def test_beta1_has_an_effect(method, leaf):
    start, grads = leaf
    if method == "muon" and start.ndim == 1:
        pytest.skip("a vector goes by Adam's own")
    values = {"learning_rate": 1.0} if method in ("prodigy", "dadapt") else {}
    a, b = (our_steps(make(method, beta1=beta, **values), start, grads) for beta in (0.5, 0.95))
    assert np.abs(a - b).max() > 1e-6 * np.abs(a - start).max() > 0


@pytest.mark.parametrize(
    "method, option, values",
    [
        *((m, "beta2", (0.5, 0.95)) for m in METHODS if m not in ("adafactor", "sgd", "muon")),
        ("muon", "beta2", (0.5, 0.95)),  # of the vectors alone, which go by Adam
        *((m, "epsilon", (1e-8, 0.1)) for m in METHODS if m not in ("adafactor", "sgd", "lion")),
        *((m, "weight_decay", (0.0, 0.5)) for m in METHODS),
    ],
)
def test_each_option_has_an_effect(method, option, values, leaf):
    start, grads = leaf
    if method == "muon" and option == "beta2" and start.ndim > 1:
        pytest.skip("a matrix has no second mean")
    rate = {"learning_rate": 1.0} if method in SELF_RATED else {}
    a, b = (our_steps(make(method, **{option: v}, **rate), start, grads) for v in values)
    assert np.abs(a - b).max() > 1e-5 * np.abs(a - start).max() > 0


LIMITS = {"beta1": (0.0, 0.999999), "beta2": (0.0, 0.999999), "epsilon": (config.MIN_EPSILON,)}
EXTREMES = [
    (method, option, value)
    for method in METHODS
    for option, values in LIMITS.items()
    for value in values
    if (method, option) not in {("adafactor", "beta1"), ("adafactor", "beta2"), ("sgd", "beta2")}
    and not (option == "epsilon" and method in ("adafactor", "sgd", "lion"))
    and (method, option, value) != ("schedule_free", "beta1", 0.0)  # refused
]


@pytest.mark.parametrize(("method", "option", "value"), EXTREMES)
def test_what_is_allowed_gives_finite_steps(method, option, value, leaf):
    """A9: also of a leaf that has no gradient, as `down` in the first step of a LoRA."""
    start, grads = leaf
    rate = {"learning_rate": RATES.get(method, 0.03)}
    tx = make(method, **{option: value}, **rate)
    params = {"unet": {"w": jnp.asarray(start), "still": jnp.ones((4, 3))}}
    state, update = tx.init(params), jax.jit(tx.update)
    for size in (1.0, 1e-12, 1e6):
        given = {"unet": {"w": jnp.asarray(size * grads[0]), "still": jnp.zeros((4, 3))}}
        updates, state = update(given, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))


@pytest.mark.parametrize("method", ["prodigy", "dadapt"])
def test_the_rate_scales_what_they_find(method, leaf):
    start, grads = np.zeros_like(leaf[0]), leaf[1][:1]
    one, two = (
        our_steps(make(method, learning_rate=rate, weight_decay=0.0), start, grads)
        for rate in (1.0, 2.0)
    )
    assert one.any()
    np.testing.assert_allclose(two, 2 * one, rtol=1e-5)


@pytest.mark.parametrize("method", ["prodigy", "dadapt"])
def test_those_that_find_their_rate_scale_it_by_the_schedule_and_by_leaf(method, leaf):
    start, grads = np.zeros_like(leaf[0]), leaf[1][:1]
    values = {"learning_rate": 1.0, "weight_decay": 0.0}
    whole = our_steps(make(method, **values), start, grads)
    half = our_steps(make(method, rates={"unet": 0.5}, **values), start, grads)
    assert whole.any()
    np.testing.assert_allclose(half, whole / 2, rtol=1e-5)
    warming = {"schedule": "constant_with_warmup", "warmup_steps": 10}
    begun = our_steps(make(method, **values, **warming), start, grads)
    assert np.abs(begun).max() < 1e-5 * np.abs(whole).max()  # not NaN, as 0 / 0 in the estimate
