"""Drawn timesteps: their distribution, their bounds, their spread over a batch."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_sd.config import TimestepsConfig
from flax_sd.errors import UserError
from flax_sd.training.losses.timesteps import draw, probabilities, reached

MANY = 200_000


def drawn(count=1000, batch=MANY, *, seed=0, **options):
    cfg = TimestepsConfig(**options)
    chances = probabilities(cfg, count)
    t = draw(jax.random.key(seed), reached(chances), batch, stratified=cfg.stratified)
    return np.asarray(t), chances


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling": "logit_normal", "logit_mean": 0.7, "logit_std": 0.5},
        {"sampling": "later", "bias_multiplier": 3.0},
        {"first": 3, "last": 11},
    ],
)
def test_they_follow_their_probabilities(options):
    t, chances = drawn(20, **options)
    found = np.bincount(t, minlength=20) / MANY
    assert chances.sum() == pytest.approx(1)
    assert not found[chances == 0].any()
    np.testing.assert_allclose(found, chances, atol=4 * 0.5 / np.sqrt(MANY))


def test_logit_normal_is_a_sigmoid_of_a_normal():
    _, chances = drawn(50, 1, sampling="logit_normal", logit_mean=-0.4, logit_std=1.3)
    z = np.random.default_rng(0).normal(-0.4, 1.3, 400_000)
    wanted = np.bincount((50 / (1 + np.exp(-z))).astype(int), minlength=50) / len(z)
    np.testing.assert_allclose(chances, wanted, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "biased"),
    [
        ({"sampling": "earlier", "bias_portion": 0.3}, range(3)),
        ({"sampling": "later", "bias_portion": 0.3}, range(7, 10)),
        ({"sampling": "range", "bias_begin": 2, "bias_end": 6}, range(2, 6)),
        ({"sampling": "range", "bias_begin": 8}, range(8, 10)),
    ],
)
def test_the_biases_are_the_reference_scripts(options, biased):
    weights = np.ones(10)
    weights[list(biased)] *= 5
    _, chances = drawn(10, 1, bias_multiplier=5.0, **options)
    np.testing.assert_allclose(chances, weights / weights.sum())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(0, 99))
def test_stratified_batches_have_one_in_each_part(batch, seed):
    t, _ = drawn(1000, batch, seed=seed, stratified=True)
    # float32 rounds a place by less than a timestep
    assert all(i * 1000 // batch - 1 <= t[i] <= (i + 1) * 1000 // batch for i in range(batch))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"first": 5, "last": 4}, "timesteps.first 5 to timesteps.last 4: the model has 0 to 9"),
        ({"last": 10}, "the model has 0 to 9"),
        (
            {"sampling": "logit_normal", "logit_mean": -99.0, "first": 5},
            "logit_normal around -99.0 draws none of the timesteps from 5 to 9",
        ),
        ({"sampling": "range", "bias_begin": 4, "bias_end": 4}, "timesteps.bias_begin 4"),
        ({"sampling": "range", "bias_end": 11}, "timesteps.bias_end 11"),
    ],
)
def test_bounds_that_leave_none_are_named(options, said):
    with pytest.raises(UserError, match=said):
        drawn(10, 1, **options)
