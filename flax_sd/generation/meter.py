"""The bar of a sampling run: pictures done, images/s, time left."""

import contextlib
import datetime
import math
import time
from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from flax_sd.system.progress import Progress

INTERVAL = 30.0  # seconds between two plain lines where the output is no terminal


class Meter:
    """Shows how far the drawing is: a bar, or now and then a line.

    The rate leaves the first batch out, for it compiles, unless there is no other.
    """

    def __init__(self, progress: Progress, total: int):
        self._progress, self._total, self._done = progress, total, 0
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._last_line = -math.inf
        columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")
        self._bar = Bar(*columns, console=progress.console)
        self._task = self._bar.add_task("", total=total, text="compiling")

    @contextlib.contextmanager
    def shown(self) -> Iterator["Meter"]:
        """Shows the bar, if the output is a terminal."""
        if not self._progress.console.is_terminal:
            yield self
            return
        with self._bar:
            yield self

    def add(self, count: int) -> None:
        """Counts pictures that were just drawn."""
        now = time.monotonic()
        self._done += count
        text = f"{self.rate(now):.2f} images/s  {self._left(now)} left"
        if self._first is None:
            self._first = self._done, now
        if self._progress.console.is_terminal:
            self._bar.update(self._task, completed=self._done, text=text)
        elif now - self._last_line >= INTERVAL or self._done == self._total:
            self._last_line = now
            self._progress.say(f"{self._done}/{self._total}  {text}")

    def rate(self, now: float) -> float:
        """Pictures a second so far."""
        done, start = self._first or (0, self._start)
        if done == self._done:
            done, start = 0, self._start
        return (self._done - done) / max(now - start, 1e-9)

    def _left(self, now: float) -> str:
        if self._first is None and self._done < self._total:
            return "-:--:--"  # the first batch says little of the others
        seconds = (self._total - self._done) / max(self.rate(now), 1e-9)
        return str(datetime.timedelta(seconds=round(seconds)))
