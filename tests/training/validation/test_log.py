"""What is kept of the measurements, and what is known of them after a resume."""

import json

import numpy as np
import pytest

from flax_sd.reports.confidence_interval import interval
from flax_sd.training.validation.log import Losses, ValidationLog

EDGES = [(0, 499), (500, 999)]
FIRST = Losses(("a", "b", "c"), np.array([[0.5, 0.25], [1.0, 0.5], [0.75, 0.1]]))


def lower(by):
    return FIRST._replace(values=FIRST.values - np.array(by)[:, None])


def lines(folder):
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


def test_a_line_of_each_measurement(tmp_path):
    log = ValidationLog(tmp_path, -1)
    log.add(0, "val_loss", FIRST, EDGES)
    measured = log.add(10, "val_loss", lower([0.1, 0.12, 0.14]), EDGES)
    first, second = lines(tmp_path)
    assert list(first) == ["step", "set", "mean", "ci95", "change", "change_ci95", "count", "bands"]
    assert first["step"] == 0 and first["set"] == "val_loss" and first["count"] == 3
    assert first["mean"] == pytest.approx(3.1 / 6) and first["change"] is first["change_ci95"]
    assert first["bands"] == [[0, 499, 0.75], [500, 999, pytest.approx(0.85 / 3)]]
    # The change is that of each image, far better known than either loss.
    assert second["change"] == pytest.approx(-0.12)
    assert second["change_ci95"] == pytest.approx(interval(np.array([0.1, 0.12, 0.14])).half)
    assert second["change_ci95"] < second["ci95"] / 5
    assert measured.change is not None and measured.change.falls


def test_a_resumed_run_knows_the_first_losses_and_drops_the_later_ones(tmp_path):
    log = ValidationLog(tmp_path, -1)
    for step, by in ((0, 0.0), (10, 0.1), (20, 0.2)):
        log.add(step, "val_loss", lower([by] * 3), EDGES)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(whole) == ["validation.jsonl", "validation_pictures.jsonl"]
    again = ValidationLog(tmp_path, 10)
    again.rewind()
    assert [line["step"] for line in lines(tmp_path)] == [0, 10]
    again.add(20, "val_loss", lower([0.2] * 3), EDGES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_changes_are_of_the_same_images_or_unknown(tmp_path):
    log = ValidationLog(tmp_path, -1)
    log.add(0, "val_loss", FIRST, EDGES)
    other = FIRST._replace(names=("a", "b", "new"))
    assert log.add(10, "val_loss", other, EDGES).change is None
    assert log.add(10, "base_loss", FIRST, EDGES).change is None
    assert [line["change"] for line in lines(tmp_path)] == [None] * 3


def test_one_image_has_no_interval_and_vae_losses_no_bands(tmp_path):
    ValidationLog(tmp_path, -1).add(0, "val_loss", Losses(("a",), np.array([[0.5]])), [])
    (line,) = lines(tmp_path)
    assert line["ci95"] is None and line["bands"] == [] and line["mean"] == 0.5


def measured(folder, *losses):
    folder.mkdir(exist_ok=True)
    log = ValidationLog(folder, 100)
    for i, values in enumerate(losses):
        log.add(10 * i, "val_loss", Losses(("a", "b", "c"), np.array(values)[:, None]), [])
    return log


def test_the_best_is_the_least_after_step_0_and_the_first_of_equal_ones(tmp_path):
    log = measured(tmp_path, [0.1, 0.1, 0.1], [0.9, 0.5, 0.4], [0.4, 0.3, 0.2], [0.4, 0.3, 0.2])
    assert log.best() == 20
    # A resumed run knows no later ones, and ends with the same.
    assert ValidationLog(tmp_path, 10).best() == 10 and ValidationLog(tmp_path, 30).best() == 20
    assert ValidationLog(tmp_path, 0).best() is None


def test_only_a_sure_improvement_of_the_same_images_ends_the_waiting(tmp_path):
    start, sure = np.array([0.5, 1.0, 2.0]), np.array([-0.1, -0.11, -0.12])
    unsure = start + sure + np.array([-0.3, 0.1, 0.1])
    rows = [start, start + sure, unsure, start, start + 2 * sure]
    for known, waited in ((1, 0), (2, 0), (3, 1), (4, 2), (5, 0)):
        log = measured(tmp_path / str(known), *rows[:known])
        assert log.without_improvement() == waited, known
