import errno
import os
import pathlib
import shutil

import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.files.atomic import atomic_file, mount_point, os_reason, with_disk, write_atomically
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.training.inputs.encoding_cache import Store


def test_a_full_disk_is_named_by_where_it_is_mounted(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    path, full = tmp_path / "a" / "b", OSError(errno.ENOSPC, "No space left on device")
    assert mount_point(path) == tmp_path
    assert os_reason(full, path) == f"No space left on device (the disk mounted at {tmp_path})"
    passed_on = "Error writing file: No space left on device"
    assert with_disk(passed_on, path) == os_reason(full, path)
    assert (
        os_reason(PermissionError(errno.EACCES, "Permission denied"), path) == "Permission denied"
    )


def test_every_path_is_on_some_disk():
    assert mount_point(pathlib.Path("no/such/folder")).is_dir()


@pytest.mark.parametrize("write", ["text", "store"])
def test_nothing_half_written_stays(tmp_path, monkeypatch, write):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="cannot write .*: No space left on device"):
        if write == "text":
            write_atomically(tmp_path / "config.yaml", "a: 1")
        else:
            Store(tmp_path).write("ab1", {"mean": np.zeros(3, np.float32)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    write_atomically(tmp_path / "folder" / "a", "ä")
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "folder" / "a") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == {
        "a": "ä".encode()
    }


def test_two_processes_may_write_one_path(tmp_path):
    path = tmp_path / "a"
    with atomic_file(path, shared=True) as one, atomic_file(path, shared=True) as other:
        one.write(b"one")
        other.write(b"two")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a", b"one")]


def test_a_disk_without_room_for_a_state_is_named_before_anything_is_written(tmp_path, monkeypatch):
    checkpoints, state = Checkpoints(tmp_path, 3), {"x": np.zeros(3)}
    checkpoints.save(1, state)
    checkpoints.wait()
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"No space left on device \(the disk mounted at "):
        checkpoints.save(2, state)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    checkpoints.close()
