"""The memory of a process, as Linux counts it, in GiB."""

import pathlib
import threading
import time

EVERY = 0.02  # seconds between two looks
STATUS = pathlib.Path("/proc/self/status")


class Peak(threading.Thread):
    """Watches the pages in memory, anonymous and of files, for their highest sum.

    Pages of files count because weights may be mapped from theirs instead of being read.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.value = 0.0

    def run(self) -> None:
        """Keeps the highest sum."""
        while True:
            self.value = max(self.value, _read("RssAnon", "RssFile"))
            time.sleep(EVERY)


def highest() -> float | None:
    """Returns the peak of the whole process so far; None where the system is not Linux."""
    return _read("VmHWM") if STATUS.exists() else None


def _read(*names: str) -> float:
    """Returns the sum of these lines of the process's status."""
    values = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return sum(int(values[name].split()[0]) for name in names) / 2**20
