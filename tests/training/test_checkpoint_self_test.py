"""F1: a checkpoint comes back from where it was written, whatever the folder is called."""

import pathlib

import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.training.checkpoint_self_test import check_name, try_checkpoints
from flax_sd.training.checkpoints import Checkpoints

NAMES = ["v#2", "50% off", "a?b", "sp ace", "quo'te\"s", "猫", "dot.", "a|b@{c}", "file:", "%20"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name(tmp_path, name):
    check_name(tmp_path / name)
    try_checkpoints(tmp_path / name / "checkpoints")
    assert not [path for path in (tmp_path / name).iterdir()]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_beside_the_one_that_the_process_is_in(tmp_path, monkeypatch):
    """F1's sibling: `--output ../runs/cat`."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    try_checkpoints(pathlib.Path("../run/checkpoints"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "run"]


@pytest.mark.parametrize("name", ["back\\slash", "dogs:", "gs:/bucket"])
def test_names_that_the_library_misreads_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="which the library that writes checkpoints misreads"):
        check_name(tmp_path / name / "run")


def test_one_that_does_not_come_back(tmp_path, monkeypatch):
    def lose(self, step, leaves):
        raise ValueError("gone")

    monkeypatch.setattr(Checkpoints, "_read", lose)
    with pytest.raises(UserError, match="could not be read again: choose another --output"):
        try_checkpoints(tmp_path / "checkpoints")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_trial_left_is_no_hindrance(tmp_path):
    left = Checkpoints(tmp_path / ".checkpoints-tried", 1)
    left.save(1, {"tried": np.arange(3)})
    left.close()
    try_checkpoints(tmp_path / "checkpoints")
    assert not list(tmp_path.iterdir())
