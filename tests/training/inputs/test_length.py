"""How long a run is, and which option says so."""

import pytest

from flax_sd.config import Config
from flax_sd.training.inputs.datasets import describe, open_sets, total_steps


@pytest.mark.parametrize(
    "train, total, words",
    [
        ({"steps": 10}, 10, "10 steps of 2, 2.86 epochs"),
        ({"steps": 10, "epochs": 2}, 7, "7 steps of 2, 2 epochs: train.epochs ends the run"),
        (
            {"steps": 6, "epochs": 3},
            6,
            "6 steps of 2, 1.71 epochs: train.steps ends the run before its 3 epochs",
        ),
    ],
)
def test_the_smaller_ends_the_run(images, train, total, words):
    data = {"path": str(images), "resolution": 32}
    config = Config.model_validate({"data": data, "train": {"batch_size": 2, **train}})
    found = open_sets(config).train  # seven images
    assert total_steps(config, found) == total
    assert describe(config, found).removesuffix(" (train.epochs)") == words


def test_it_is_said_before_step_one(train):
    run = train("a", "--train.epochs", 1, "--train.steps", 2)
    assert "train.steps ends the run before its 1 epochs" in run.out
