"""After which steps a run saves, draws and measures."""

import pytest

from flax_sd.config import Config
from flax_sd.data import Order
from flax_sd.training.due import Due
from tests.data.test_order import Shown

ONE, SEVERAL = [(8, 8)] * 7, [(8, 8)] * 5 + [(8, 16)] * 2


def due(shapes, **sections):
    """The steps of the first twenty after which each is due, in batches of two."""
    asked = Due(Config.model_validate(sections), Order(Shown(shapes), 2, 0), 10**6)
    each = (asked.saves, asked.samples, asked.evaluates)
    return [[step for step in range(1, 21) if of(step)] for of in each]


def test_saves_and_samples_come_every_so_many_steps_or_epochs():
    """D: `--save_every_n_epochs`, `--sample_every_n_epochs`; 7 images in steps of 2."""
    assert due(ONE) == [[], [], []]
    saves, samples, _ = due(
        ONE, checkpoint={"every": 9, "every_epochs": 2}, sample={"every_epochs": 1}
    )
    assert saves == [7, 9, 14, 18] and samples == [4, 7, 11, 14, 18]
    # 5 images of one shape and 2 of another are 3 + 1 batches.
    assert due(SEVERAL, checkpoint={"every_epochs": 2}, sample={"every": 5, "every_epochs": 3}) == [
        [8, 16],
        [5, 10, 12, 15, 20],
        [],
    ]
    measured = {"data": {"held_out": "x"}, "validation": {"every": 8}}
    assert due(ONE, **measured) == [[], [], [8, 16]]


@pytest.mark.parametrize("shapes", [ONE, SEVERAL, ONE[:1]])
def test_an_epoch_ends_where_a_run_of_so_many_would(shapes):
    """D: as `train.epochs`; of one image two end in a step."""
    order = Order(Shown(shapes), 2, 0)
    ends = {order.steps(n) for n in range(1, 41)}
    assert due(shapes, checkpoint={"every_epochs": 1})[0] == [n for n in range(1, 21) if n in ends]
