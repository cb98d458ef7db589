"""Runs that are measured while they train."""

import json

import pytest

from flax_sd import cli, config_file
from flax_sd.runs.datasets import TRAIN_SUBSET, VAL_LOSS, open_sets
from tests.runs.conftest import Ended, make_pictures, metrics

STEPS = ["--train.steps", "5", "--validation.every", "2", "--checkpoint.every", "3"]


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("held"), 3, seed=5)


@pytest.fixture(scope="module")
def validated(config_file, held, tmp_path_factory, compile_cache):
    """A run of five steps, measured after each second one."""
    folder = tmp_path_factory.mktemp("runs") / "validated"
    flags = ["--output", folder, *STEPS, "--data.held_out", held]
    flags += ["--log.tensorboard", "true", "--log.every", "3"]
    assert cli.train([str(config_file), *map(str, flags)]) == 0
    return Ended(0, folder, "", "")


def lines(folder):
    text = (folder / "validation.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_it_measures_both_sets_while_it_trains(validated):
    found = lines(validated.folder)
    expected = [(step, name) for step in (0, 2, 4, 5) for name in (VAL_LOSS, TRAIN_SUBSET)]
    assert [(line["step"], line["set"]) for line in found] == expected
    assert {line["count"] for line in found} == {3}
    assert len({line["mean"] for line in found}) == len(found)
    logged = {line["step"]: line for line in metrics(validated.folder)}
    assert list(logged) == [0, 2, 3, 4, 5] and VAL_LOSS not in logged[3]
    for line in found:
        row = logged[line["step"]]
        assert row[line["set"]] == line["mean"] and row[f"{line['set']}_ci"] == line["ci95"]
        assert row.get(f"{line['set']}_change_ci") == line["change_ci95"]


@pytest.mark.slow
def test_the_trackers_get_the_figures_and_the_courses(validated):
    (events,) = (path.read_bytes() for path in (validated.folder / "tensorboard").iterdir())
    for name in (b"val_loss", b"val_loss_change", b"train_subset_ci", b"train_subset/t900-999"):
        assert name in events


@pytest.fixture
def sets(config_file_path):
    return lambda *flags: open_sets(config_file.parse(config_file_path, list(map(str, flags))))


@pytest.fixture
def config_file_path(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {resolution: 32}")
    return path


def test_as_many_training_pictures_are_measured(sets, tmp_path, held):
    folder = tmp_path / "data"
    folder.mkdir()
    flags = ["--data.path", make_pictures(folder, 7), "--data.held_out", held]
    assert TRAIN_SUBSET not in sets(*flags).measured
    flags += ["--validation.every", 2, "--data.random_flip", "true"]
    before = sets(*flags)
    chosen = before.measured[TRAIN_SUBSET]
    assert len(chosen) == 3 < len(before.train) and set(chosen.names) < set(before.train.names)
    assert chosen.cfg.center_crop and not chosen.cfg.random_flip
    # A larger set keeps most of those that were chosen: names alone decide.
    after = sets(*flags[:1], make_pictures(folder, 9), *flags[2:])
    assert len(set(after.measured[TRAIN_SUBSET].names) & set(chosen.names)) >= 2


def test_measuring_nothing_again_and_again_is_refused(config_file_path):
    with pytest.raises(Exception, match=r"validation\.every without data\.held_out"):
        config_file.parse(config_file_path, ["--validation.every", "2"])
    config_file.parse(config_file_path, ["--validation.every", "2", "--data.held_out_base", "x"])
