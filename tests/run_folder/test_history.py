import json

import pytest

from flax_sd.errors import UserError
from flax_sd.run_folder import history
from tests.made_runs import make_run


def test_a_run_is_read_from_its_folder(tmp_path):
    run = history.read(make_run(tmp_path / "a"))
    assert run.step == 60 and run.config["train"]["steps"] == 60
    assert list(run.grids) == [0, 20, 40, 60] and run.sheet is None and run.data_report is None
    assert run.series("lr") == ([*range(2, 61, 2)], [1e-4] * 30)
    assert run.series("grad_norm")[1][1] is None and run.series("nothing") == ([], [])


def test_torn_and_foreign_lines_are_left_out(tmp_path):
    folder = make_run(tmp_path / "a", 4)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            '[1]\n{"loss": 3}\n' + json.dumps({"step": 1, "loss": 9.0}) + '\n{"step": 8, "lo'
        )
    assert history.read(folder).series("loss")[0] == [1, 2, 4]


def test_a_run_that_has_just_begun(tmp_path):
    folder = make_run(tmp_path / "a")
    for name in ("metrics.jsonl", "validation.jsonl", "environment.json"):
        (folder / name).unlink()
    run = history.read(folder)
    assert run.step == 0 and run.environment == run.validation == []


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is not a run's folder: it has no config\.yaml"):
        history.read(tmp_path)
