"""Batches of several shapes: nothing left out, nothing mixed, all of it drawn from (seed, step)."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_sd.data.order import Order

SHAPES = st.lists(st.sampled_from([(8, 8), (8, 16), (16, 8)]), min_size=1, max_size=40)
SEEDS = st.integers(0, 2**63 - 1)


class Shown:
    """Pictures of these shapes."""

    def __init__(self, shapes, repeats=None, weights=None):
        self.shapes = tuple(shapes)
        self.repeats = tuple(repeats or [1] * len(shapes))
        self.weights = tuple(weights or [1.0] * len(shapes))


def real(rows):
    """The samples of a step that are no copies."""
    return rows.samples if rows.weight is None else rows.samples[rows.weight > 0]


@given(shapes=SHAPES, size=st.integers(1, 7), seed=SEEDS, epoch=st.integers(0, 9))
def test_an_epoch_shows_every_image_once_in_batches_of_one_shape(shapes, size, seed, epoch):
    order = Order(Shown(shapes), size, seed)
    steps = range(epoch * order.steps(1), (epoch + 1) * order.steps(1))
    if len(set(shapes)) == 1:
        steps = range(len(shapes))  # of one shape whole epochs end at no certain step
    rows = [order.rows(step) for step in steps]
    for each in rows:
        assert each.samples.shape == (size,) and each.real == len(real(each))
        assert len({shapes[order.image(sample)] for sample in each.samples.tolist()}) == 1
        if len(set(shapes)) > 1:
            assert each.weight.mean() == pytest.approx(1) and each.weight.max() == size / each.real
            assert set(each.samples) == set(real(each))  # what fills up is a copy
    shown = collections.Counter(order.image(s) for each in rows for s in real(each).tolist())
    assert shown == dict.fromkeys(range(len(shapes)), size if len(set(shapes)) == 1 else 1)


def test_one_shape_is_the_stream_without_shapes():
    order = Order(Shown([(8, 8)] * 7), 3, 0)
    assert order.rows(4).weight is None and order.rows(4).samples.tolist() == [12, 13, 14]
    assert order.steps(2) == 5


def test_steps_of_several_shapes_count_what_fills_up():
    order = Order(Shown([(8, 8)] * 7 + [(8, 16)]), 3, 0)
    assert order.steps(1) == 4 and order.steps(2) == 8
    assert sum(order.rows(step).real for step in range(4)) == 8


def test_epochs_and_seeds_differ_in_the_order_of_batches():
    shapes = [(8, 8)] * 3 + [(8, 16)] * 2 + [(16, 8)]

    def first(seed, epoch):
        order = Order(Shown(shapes), 1, seed)
        return tuple(order.image(int(order.rows(6 * epoch + k).samples[0])) for k in range(6))

    assert len({first(seed, epoch) for seed in range(4) for epoch in range(4)}) > 12


def test_copies_stand_anywhere_in_the_batch():
    shapes = [(8, 8)] * 5 + [(8, 16)] * 3
    order = Order(Shown(shapes), 4, 0)
    weights = [order.rows(step).weight for step in range(90)]
    counts = np.sum([weight > 0 for weight in weights if (weight == 0).any()], axis=0)
    assert (counts > 15).all()


def test_the_order_stays_what_it_is():
    # Written down once: a run must draw the same after an upgrade too.
    order = Order(Shown([(8, 8), (8, 16), (8, 8), (8, 16), (8, 8)]), 2, 3)
    assert [order.rows(step).samples.tolist() for step in range(3)] == [[0, 1], [2, 3], [4, 4]]


@pytest.mark.parametrize("shapes", [[(8, 8)] * 3, [(8, 8), (8, 16), (8, 8)]])
def test_an_epoch_shows_each_image_as_often_as_it_is_repeated(shapes):
    order = Order(Shown(shapes, repeats=[1, 2, 5]), 2, 0)
    rows = [order.rows(step) for step in range(order.steps(1))]
    shown = collections.Counter(order.image(s) for each in rows for s in real(each).tolist())
    assert shown == {0: 1, 1: 2, 2: 5}


def test_weights_of_images_multiply_those_of_their_rows():
    order = Order(Shown([(8, 8), (8, 8)], weights=[1.0, 0.25]), 2, 0)
    rows = order.rows(3)
    assert [{0: 1.0, 1: 0.25}[order.image(s)] for s in rows.samples.tolist()] == list(rows.weight)
    assert rows.real == 2
    order = Order(Shown([(8, 8), (8, 16)], weights=[1.0, 0.25]), 2, 0)
    assert sorted(w for step in (0, 1) for w in order.rows(step).weight) == [0, 0, 0.5, 2]


@settings(deadline=None)
@given(shapes=SHAPES, size=st.integers(1, 7), seed=SEEDS, epoch=st.integers(0, 9))
def test_with_a_stride_no_step_goes_over_the_end_of_an_epoch(shapes, size, seed, epoch):
    order = Order(Shown(shapes), size, seed, stride=1000)
    rows = [order.rows(epoch * order.steps(1) + k) for k in range(order.steps(1))]
    samples = [sample for each in rows for sample in real(each).tolist()]
    assert sorted(samples) == list(range(1000 * epoch, 1000 * epoch + len(shapes)))
    assert sorted(map(order.image, samples)) == list(range(len(shapes)))
    if len(set(shapes)) > 1:  # the images of a step are those without a stride
        plain = Order(Shown(shapes), size, seed)
        steps = range(epoch * order.steps(1), (epoch + 1) * order.steps(1))
        assert all(order.shown(step) == plain.shown(step) for step in steps)
