"""What commands write to a terminal, a pipe or a file, none of which may end a run."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

# Of these a stream does not come back: its reader or its terminal is gone, or it is closed.
GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ESHUTDOWN}
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}
_ESCAPES |= {n: f"\\u{n:04x}" for n in _DIRECTIONS}


def escaped(text: str) -> str:
    """The text without characters that a terminal obeys, as names of files may hold them."""
    return text.translate(_ESCAPES)


def show(text: str) -> None:
    """Prints to standard output."""
    print(escaped(text))


def complain(text: str) -> None:
    """Prints to standard error."""
    print(escaped(text), file=sys.stderr)


class Formatter(logging.Formatter):
    """Writes records of a logger without what a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))


class Enduring:
    """A stream that never fails: what it cannot write is replaced or lost."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes with ? for letters that the stream's encoding lacks."""
        encoding = self._stream.encoding or "utf-8"
        text = text.encode(encoding, "replace").decode(encoding, "replace")
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Passes on what is held back."""
        self._attempt(self._stream.flush)

    def settle(self) -> None:
        """Flushes for the last time; Python's own flush at its end is then no failure either."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno in GONE:
                self._give_up()
        except ValueError:  # it is closed
            self._give_up()

    def _give_up(self) -> None:
        """Lets everything that is written to the stream's file, by libraries too, go nowhere."""
        with contextlib.suppress(OSError, ValueError):
            number, nowhere = self._stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


@contextlib.contextmanager
def enduring() -> Iterator[None]:
    """Makes standard output and error such streams, and opens those that are closed to nothing."""
    _open_standard_files()
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        both = []
        for stream in before:
            if stream is None:  # as Python has it where the file was closed before it began
                stream = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))
            both.append(Enduring(stream))
        sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in both)
        try:
            yield
        finally:
            for stream in both:
                stream.settle()
            sys.stdout, sys.stderr = before


def _open_standard_files() -> None:
    """Else the next file that is opened, as a checkpoint, would be what libraries print into."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest free number
