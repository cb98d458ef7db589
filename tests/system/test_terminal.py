"""F16, F37: whatever becomes of the output, the command goes on."""

import errno
import io
import logging
import sys

import pytest

from flax_sd.system import terminal
from flax_sd.system.progress import Progress
from tests import processes


class Broken(io.StringIO):
    """A stream that raises."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "x"),
        OSError(errno.EIO, "x"),
        OSError(errno.ENOSPC, "x"),
        BlockingIOError(errno.EAGAIN, "x"),
        ValueError("I/O operation on closed file"),
    ],
)
def test_an_error_of_the_stream_is_none_of_the_command(monkeypatch, error):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    monkeypatch.setattr(sys, "stderr", Broken(error))
    with terminal.enduring():
        terminal.show("a")
        terminal.complain("b")
        Progress().say("c")
        logging.StreamHandler().emit(logging.makeLogRecord({"msg": "d"}))
    assert isinstance(sys.stdout, Broken)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp932"])
def test_letters_that_an_encoding_lacks_are_replaced(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    with terminal.enduring():
        Progress().say("一只猫 ‖ΔW‖ \udcff a cat")
    assert written.getvalue().decode(encoding).endswith(" a cat\n")


def test_streams_that_were_closed_before_the_start(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with terminal.enduring():
        terminal.show("a")
        terminal.complain("b")
        sys.stdout.flush()
    assert sys.stdout is None


def test_what_a_terminal_obeys_is_escaped(capsys):
    name = "a\x1b[2J\x07\r\x9b\u202egnp.1\x7f\nb\tc"
    shown = "a\\x1b[2J\\x07\\x0d\\x9b\\u202egnp.1\\x7f\nb\tc"
    terminal.show(name)
    terminal.complain(name)
    Progress().say(name)
    out, err = capsys.readouterr()
    assert err == f"{shown}\n" and out.startswith(f"{shown}\n")
    assert "\x1b" not in out and "\x07" not in out
    record = logging.makeLogRecord({"msg": name})
    assert terminal.Formatter().format(record) == shown


WRITING = """
import os, sys
from flax_sd.system import terminal
with terminal.enduring():
    os.read(0, 1)  # until the reader is gone
    for _ in range(3):
        terminal.show("x" * 100_000)
    os.write(1, b"y")
    terminal.complain("done")
"""


def test_a_reader_that_goes_away_costs_nothing_and_leaves_no_trace():
    """The status too: Python's own flush at its end would make it 120."""
    process = processes.start(WRITING, stdin=-1)
    process.stdout.close()
    process.stdin.write("x")
    process.stdin.close()
    assert process.stderr.read() == "done\n" and process.wait() == 0
    process.stderr.close()


CLOSED = """
import os
os.close(1), os.close(2)
from flax_sd.system import terminal
with terminal.enduring():
    with open(os.devnull) as file:
        assert file.fileno() > 2
    terminal.show("a")
"""


def test_no_file_of_ours_takes_the_place_of_a_closed_stream():
    process = processes.start(CLOSED)
    process.communicate()
    assert process.returncode == 0
