"""SIGTERM, SIGHUP, Ctrl-C: exit at once, or a request to stop that the loop reads between steps."""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType

from flax_sd.system.exit_status import STOPPED

NOTICE = b"\nCtrl-C: saving after this step; press it again to end at once.\n"
NAMES = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "SIGHUP (the terminal is gone)",
    signal.SIGINT: "Ctrl-C",
}


class StopRequest:
    """A block in which SIGTERM, SIGHUP and Ctrl-C (SIGINT) only set `reason`.

    While `at_once` says why that loses nothing, they end the process instead, with that sentence.
    A thread does it: a handler in Python waits for the end of a long compilation, and those who
    send SIGTERM often send SIGKILL half a minute later.

    A second Ctrl-C ends the process at once, even inside a long computation: what is being saved
    then is written aside and renamed, so nothing that counts is torn. Enter it after
    `distributed.initialize_distributed`, which installs a SIGTERM handler of its own. A SIGHUP that
    is ignored, as nohup has it, stays ignored.

    Attributes:
      reason: None, or what asked to stop, as "SIGTERM" or "Ctrl-C".
      at_once: None, or why the process may end without saving.
    """

    def __init__(self, at_once: str | None = None) -> None:
        self.reason: str | None = None
        self.at_once = at_once
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "StopRequest":
        for number in NAMES:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._writer)  # which ends the thread
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _watch(self, reader: int) -> None:
        """Reads the signal numbers, which the interpreter writes even while it is busy."""
        with open(reader, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if self.at_once and number[0] in NAMES:
                    name = NAMES[signal.Signals(number[0])]
                    _tell(f"\n{name}: {self.at_once}\n".encode())
                    os._exit(STOPPED)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.at_once:
            return
        self.reason = self.reason or NAMES[signal.Signals(number)]
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _tell(NOTICE)


def _tell(words: bytes) -> None:
    """Writes to standard error, if possible.

    print may not be entered twice, and a signal can come within it.
    """
    with contextlib.suppress(OSError):
        os.write(2, words)
