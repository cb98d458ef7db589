"""Output to a terminal, a pipe or a file; a failed write never ends a run."""

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
    """Escapes the control characters of a text, such as a file name, that a terminal would obey."""
    return text.translate(_ESCAPES)


def show(text: str) -> None:
    """Prints to standard output."""
    print(escaped(text))


def complain(text: str) -> None:
    """Prints to standard error."""
    print(escaped(text), file=sys.stderr)


class Formatter(logging.Formatter):
    """Formats log records without a terminal's control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))


class Enduring:
    """A stream that never fails: what it cannot write is replaced or lost."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes with ? for characters that the stream's encoding lacks."""
        encoding = self._stream.encoding or "utf-8"
        text = text.encode(encoding, "replace").decode(encoding, "replace")
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes the buffer."""
        self._attempt(self._stream.flush)

    def settle(self) -> None:
        """Flushes for the last time, so that Python's own flush at the end cannot fail."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno in GONE:
                self._give_up()
        except ValueError:  # it is closed
            self._give_up()

    def _give_up(self) -> None:
        """Discards all further output to the stream's file, including that of libraries."""
        with contextlib.suppress(OSError, ValueError):
            number, nowhere = self._stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


@contextlib.contextmanager
def enduring() -> Iterator[None]:
    """Replaces standard output and error by `Enduring` streams; a closed one is opened to
    nothing."""
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
    """Opens closed standard files: else a checkpoint could get their number, and what libraries
    print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest free number
