"""What a run shows while it works: stages with their times, then a bar or plain lines."""

import datetime
import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import SupportsFloat, TypeVar

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from flax_sd.system import terminal

WORTH_SAYING = 0.01  # share of the time that the devices wait for pictures


class Progress:
    """The messages of a run; only the first of several processes shows any."""

    def __init__(self, console: Console | None = None) -> None:
        """Starts the clock of the first stage; writes to standard output by default."""
        self.console = console or Console(quiet=jax.process_index() != 0)
        self._stage_start = time.monotonic()

    def stage(self, name: str, detail: str = "") -> None:
        """Says that a stage is done, and how long it took since the one before."""
        now = time.monotonic()
        took, self._stage_start = now - self._stage_start, now
        self.say(f"{took:7.1f} s  {name}" + (f": {detail}" if detail else ""))

    def say(self, line: str) -> None:
        """Prints a line as it is, above the bar if there is one."""
        shown = terminal.escaped(line)
        self.console.print(shown, markup=False, highlight=False, soft_wrap=True)

    def table(self, rows: Sequence[Sequence[str]], side: str = ">") -> None:
        """Prints columns as wide as they must be: the first to the left, the others to a side."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = ["<", *side * (len(widths) - 1)]
        for row in rows:
            placed = zip(row, sides, widths, strict=True)
            self.say("  ".join(f"{cell:{at}{width}}" for cell, at, width in placed).rstrip())

    def count(self, total: int, name: str, *, interval: float = 30.0) -> "Count":
        """The display of work on `total` things, as "encoding pictures"; none if there are none."""
        return Count(self, total, name, interval)

    def steps(self, total: int, done: int = 0, *, interval: float = 30.0) -> "Steps":
        """The display of a loop that goes from `done` to `total` steps.

        Args:
          total: steps of the whole run.
          done: steps that were done before, if it resumes.
          interval: seconds between two plain lines; a log does not want one a step.
        """
        return Steps(self, total, done, interval)


Shown = TypeVar("Shown", bound="Display")


class Display:
    """A bar on a terminal while the `with` block runs; elsewhere plain lines at an interval."""

    def __init__(
        self, progress: Progress, bar: Bar, interval: float, first_line: float, *, shown: bool
    ) -> None:
        self._progress, self._bar, self._interval = progress, bar, interval
        self._last_line = first_line
        self._live = shown and progress.console.is_terminal

    def __enter__(self: Shown) -> Shown:
        if self._live:
            self._bar.start()
            # A second Ctrl-C ends the process without cleaning up, which would leave it hidden.
            self._progress.console.show_cursor(True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._bar.stop()


class Count(Display):
    """How many of some things are done, and the time left."""

    def __init__(self, progress: Progress, total: int, name: str, interval: float) -> None:
        self._total, self._name, self._done = total, name, 0
        self._start = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(name), TimeRemainingColumn())
        bar = Bar(*columns, console=progress.console, transient=True)
        self._task = bar.add_task("", total=total)
        super().__init__(progress, bar, interval, self._start, shown=total > 0)

    def advance(self, number: int) -> None:
        """Shows that so many more are done."""
        self._done += number
        now = time.monotonic()
        if self._live:
            self._bar.advance(self._task, number)
        elif now - self._last_line >= self._interval:
            self._last_line = now
            left = (now - self._start) / self._done * (self._total - self._done)
            clock = datetime.timedelta(seconds=round(left))
            self._progress.say(f"{self._name} {self._done}/{self._total}  {clock} left")


class Steps(Display):
    """Steps with their loss, images/s and time left."""

    def __init__(self, progress: Progress, total: int, done: int, interval: float) -> None:
        self._total = total
        # Time left is reckoned from the first update on: the first step compiles.
        self._first: tuple[int, float] | None = None
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
        bar = Bar(*columns, console=progress.console)
        self._task = bar.add_task("", total=total, completed=done, said="")
        super().__init__(progress, bar, interval, -math.inf, shown=True)

    def compiling(self, what: str) -> None:
        """Says what is compiled before the next step, which can take minutes."""
        if self._live:
            self._bar.update(self._task, said=f"compiling {what}", refresh=True)
        else:
            self._progress.say(f"compiling {what}")

    def update(self, step: int, loss: SupportsFloat, pace: Mapping[str, float]) -> None:
        """Shows that `step` steps are done.

        Args:
          pace: images_per_second, and of wait_share and mfu (both 0 to 1) what is known.
        """
        now = time.monotonic()
        shown, rate = f"{float(loss):.4f}", f"{pace['images_per_second']:.2f} images/s"
        if "mfu" in pace:
            rate += f"  MFU {pace['mfu']:.0%}"
        if pace.get("wait_share", 0.0) >= WORTH_SAYING:
            rate += f"  waits for pictures {pace['wait_share']:.0%}"
        said = f"loss {shown}  {rate}  {self._left(step, now)} left"
        if self._live:
            self._bar.update(self._task, completed=step, said=said)
        elif now - self._last_line >= self._interval or step == self._total:
            self._last_line = now
            self._progress.say(f"step {step}/{self._total}  {said}")

    def _left(self, step: int, now: float) -> str:
        """Time left, as hours:minutes:seconds, by the mean over the steps since the first."""
        if self._first is None:
            self._first = step, now
        first_step, first_time = self._first
        if step >= self._total:
            return "0:00:00"
        if step <= first_step:
            return "-:--:--"
        seconds = (now - first_time) / (step - first_step) * (self._total - step)
        return str(datetime.timedelta(seconds=round(seconds)))
