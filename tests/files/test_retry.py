import errno
import os

import numpy as np
import pytest

from flax_sd.config import DataConfig
from flax_sd.data.probe import Seen, look, read
from flax_sd.data.sources.records import Record
from flax_sd.files import retry
from flax_sd.training.inputs.encoding_cache import Store


class Drive:
    """A read that fails some times with an error of the system, and then gives what it has."""

    def __init__(self, number, failures, content=b"x"):
        self.number, self.left, self.content = number, failures, content

    def __call__(self, *_):
        if self.left:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number))
        return self.content


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    pauses = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    return pauses


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_what_passes_is_waited_for_and_said(slept, caplog, number):
    assert read(Record("1.png", ("a",), Drive(number, 3))) == b"x"
    assert slept == [1, 2, 4]
    said = f"1.png cannot be read ({os.strerror(number)}); trying again in 4 s"
    assert caplog.messages[-1] == said and len(caplog.messages) == 3


def test_what_does_not_pass_is_given_up_after_a_minute(slept):
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        retry.with_retries(Drive(errno.EIO, 99), "1.png")
    assert sum(slept) == 63 and slept == sorted(slept)


def test_a_file_that_is_not_there_is_not_waited_for(slept):
    with pytest.raises(FileNotFoundError):
        retry.with_retries(Drive(errno.ENOENT, 1), "1.png")
    assert slept == []


def test_before_a_run_an_image_is_left_out_sooner(slept):
    why = look(Record("1.png", ("a",), Drive(errno.EIO, 99)), DataConfig())
    assert not isinstance(why, Seen) and why == "cannot be read: Input/output error"
    assert sum(slept) == 3


def test_what_was_encoded_is_waited_for_too(slept, tmp_path, monkeypatch):
    store, arrays = Store(tmp_path), {"mean": np.arange(3, dtype=np.float32)}
    store.write("ab1", arrays)
    drive = Drive(errno.ESTALE, 2)
    monkeypatch.setattr("pathlib.Path.read_bytes", drive)
    np.testing.assert_array_equal(store.read("ab1")["mean"], arrays["mean"])
    assert slept == [1, 2]
