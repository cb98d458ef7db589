"""SIGTERM and Ctrl-C: a wish to stop that the loop reads between two steps."""

import os
import signal
from types import FrameType, TracebackType

NOTICE = b"\nCtrl-C: saving after this step; press it again to end at once.\n"


class StopRequest:
    """While it is entered, SIGTERM and Ctrl-C (SIGINT) set `reason` and do nothing else.

    A second Ctrl-C ends the process at once, even inside a long computation: what is being saved
    then is written aside and renamed, so nothing that counts is torn. Enter it after
    `sharding.initialize_distributed`, which installs a SIGTERM handler of its own.

    Attributes:
      reason: None, or what asked to stop: "SIGTERM" or "Ctrl-C".
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.reason = self.reason or "SIGTERM"
            return
        self.reason = self.reason or "Ctrl-C"
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(2, NOTICE)  # print may not be entered twice, and a signal can come within it
