"""Means with their intervals."""

import math

import numpy as np
import pytest
import scipy.stats

from flax_sd.reports.confidence_interval import interval, said_change


def test_it_is_scipys_of_students_t():
    values = np.random.default_rng(0).normal(3, 2, 7)
    mean, half = interval(values)
    low, high = scipy.stats.t.interval(0.95, 6, np.mean(values), scipy.stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)


def test_nineteen_of_twenty_hold_the_true_mean():
    draws = np.random.default_rng(1).normal(1.0, 0.5, (4000, 5))
    held = [abs(mean - 1) < half for mean, half in map(interval, draws)]
    assert 0.94 < np.mean(held) < 0.96


def test_it_falls_where_all_of_it_is_below_nothing():
    assert interval(np.array([-1.0, -1.1, -0.9])).falls
    assert not interval(np.array([-1.0, 0.9, -0.9])).falls
    assert interval(np.array([1.0, 1.1])).clear and not interval(np.array([-1.0, 1.1])).clear
    alone = interval(np.array([-1.0]))
    assert alone.mean == -1 and math.isnan(alone.half) and not alone.falls


def test_a_change_that_may_be_none_is_said_to_be_none():
    """U2: -40.5 % ± 93.0 % is no improvement."""
    assert said_change(0.08, 0.06, 0.004) == "-25.0% ± 5.0%"
    for unknown in (None, math.nan):
        assert said_change(0.08, 0.06, unknown) == "-25.0% (its interval is not known)"
    assert said_change(0.08, 0.06, 0.03) == "no measurable change (-25.0% ± 37.5%)"
