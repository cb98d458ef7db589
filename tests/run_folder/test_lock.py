import os
import signal

import pytest

from flax_sd.errors import UserError
from flax_sd.run_folder.lock import held, refuse_if_held
from tests.processes import start

HOLD = """
import pathlib, sys, time
from flax_sd.run_folder.lock import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that has the folder."""
    process = start(HOLD, tmp_path / "run")
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_and_told_who_has_it(other, tmp_path):
    for ask in (lambda: refuse_if_held(tmp_path / "run"), held(tmp_path / "run").__enter__):
        with pytest.raises(UserError, match=rf"another run has .*run \(process {other.pid} on "):
            ask()


def test_a_kill_frees_the_folder(other, tmp_path):
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    refuse_if_held(tmp_path / "run")
    with held(tmp_path / "run"):
        assert (tmp_path / "run" / ".owner.json").is_file()


def test_asking_makes_no_folder(tmp_path):
    refuse_if_held(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_can_be_held_again_once_it_is_let_go(tmp_path):
    for _ in range(2):
        with held(tmp_path / "run"):
            pass
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_damaged_note_of_the_owner_is_no_hindrance(other, tmp_path):
    (tmp_path / "run" / ".owner.json").write_text("{")
    with pytest.raises(UserError, match="another run has .*run: wait for it"):
        refuse_if_held(tmp_path / "run")


def test_a_run_is_refused_where_another_has_the_folder(train, other, tmp_path):
    run = train("run")
    assert run.status == 2 and f"(process {other.pid} on " in run.err
    assert not (tmp_path / "run" / "config.yaml").exists()
