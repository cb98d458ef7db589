"""The output of a run while it works: stages with their times, then a bar or plain lines."""

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column

from flax_sd.system import terminal
from flax_sd.system.durations import keep_seconds, last_seconds

COMPILES = "which compiles what it needs"  # said of work that may run programs for the first time
INTERVAL = 30.0  # seconds between two plain lines where the output is no terminal
BELOW_INTERVAL = 1.0  # seconds for which the figures below the line stay
MIN_WIDTH = 100  # columns of a terminal from which on there is room for a bar
BAR_WIDTH = 10


class Progress:
    """The messages of a run; only the first of several processes shows any.

    Attributes:
      verbose: more is said.
    """

    def __init__(self, console: Console | None = None, *, verbose: bool = False) -> None:
        """Starts the clock of the first stage; writes to standard output by default."""
        self.console = console or Console(quiet=jax.process_index() != 0)
        self.verbose = verbose
        self.live: Bar | None = None  # what a display keeps at the end of the screen
        self._stage_start = time.monotonic()

    def stage(self, name: str, detail: str = "") -> None:
        """Prints that a stage is done, and its duration."""
        now = time.monotonic()
        took, self._stage_start = now - self._stage_start, now
        self.say(f"{took:7.1f} s  {name}" + (f": {detail}" if detail else ""))

    def say(self, line: str) -> None:
        """Prints a line unchanged, above the bar if there is one."""
        shown = terminal.escaped(line)
        self.console.print(shown, markup=False, highlight=False, soft_wrap=True)

    def table(self, rows: Sequence[Sequence[str]], side: str = ">") -> None:
        """Prints columns: the first aligned left, the others to a given side."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = ["<", *side * (len(widths) - 1)]
        for row in rows:
            placed = zip(row, sides, widths, strict=True)
            self.say("  ".join(f"{cell:{at}{width}}" for cell, at, width in placed).rstrip())

    @contextlib.contextmanager
    def work(self, name: str, once: str = "") -> Iterator[None]:
        """Says that work begins that may take long, and how long it took last time.

        A terminal shows the time passed until it ends, in place of a bar that is there. Elsewhere
        it is a line, which work that takes seconds each time is not worth.

        Args:
          name: of the work, as "evaluating 24 held-out images", by which its time is kept.
          once: what follows the name where it is the first time, as "once for this shape".
        """
        last, start = last_seconds(name), time.monotonic()
        parts = [", ".join(filter(None, [name, once]))]
        if last is not None:
            parts.append(f"{last:.0f} s last time on this machine")
        if self.console.is_terminal:
            with self._aside(), self._spinner("; ".join(parts)):
                self.console.show_cursor(True)
                yield
        else:
            if once or (last or 0.0) >= INTERVAL:
                self.say("; ".join(parts))
            yield
        keep_seconds(name, time.monotonic() - start)

    def _spinner(self, text: str) -> Bar:
        """Returns a display of the time passed, which goes away."""
        words = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1))
        columns = SpinnerColumn(), TimeElapsedColumn(), words
        shown = Bar(*columns, console=self.console, transient=True, expand=True)
        shown.add_task(text, total=None)
        return shown

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Takes the bar that is there from the screen, and puts it back."""
        bar = self.live
        if bar is None:
            yield
            return
        bar.live.transient, kept = True, bar.live.transient
        bar.stop()
        try:
            yield
        finally:
            bar.live.transient = kept
            bar.start()
            self.console.show_cursor(True)

    def loop(
        self, total: int, done: int = 0, name: str = "", *, interval: float = INTERVAL
    ) -> "Display":
        """Returns the display of a command's main loop; always shows its first and last update.

        Args:
          done: what was done before, if it resumes.
          name: of each thing, as "step".
          interval: seconds between two plain lines; a log needs none at each step.
        """
        return Display(self, name, total, done, interval, aside=False)

    def count(self, total: int, name: str, *, interval: float = INTERVAL) -> "Display":
        """Returns a display for other work, such as "encoding images"; removed if the work is
        short."""
        return Display(self, name, total, 0, interval, aside=True)


class Display:
    """A progress display: a bar on a terminal while the `with` block runs, else lines now and then.

    Attributes:
      done: how many things are.
    """

    def __init__(
        self, progress: Progress, name: str, total: int, done: int, interval: float, *, aside: bool
    ):
        self._progress, self._name, self._total, self.done = progress, name, total, done
        self._interval, self._aside = interval, aside
        self._start = done, time.monotonic()
        # The first update of a loop compiles: what follows it tells the rate.
        self._since = self._start if aside else None
        self._last_line = self._start[1] if aside else -math.inf
        self._below: tuple[float, Sequence[str]] = -math.inf, ()  # when they were found, figures
        columns = [BarColumn(BAR_WIDTH), TextColumn("{task.description}", markup=False)]
        wide = progress.console.width >= MIN_WIDTH
        self._bar = Bar(*columns[0 if wide else 1 :], console=progress.console, transient=aside)
        self._task = self._bar.add_task(self._text(), total=total, completed=done)
        self._live = progress.console.is_terminal and total > 0

    def __enter__(self) -> "Display":
        if self._live:
            self._bar.start()
            self._progress.live = self._bar
            # A second Ctrl-C ends the process without cleaning up, which would leave it hidden.
            self._progress.console.show_cursor(True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._bar.stop()
            self._progress.live = None

    def update(
        self, done: int, *columns: str, below: Callable[[], Sequence[str]] | None = None
    ) -> None:
        """Shows how many are done, other figures, and the time passed and left.

        Args:
          below: -> more figures, for a second line on a terminal, or where more is to be said.
        """
        self.done, now = done, time.monotonic()
        passed = "" if self._aside else f"{_clock(now - self._start[1])} passed, "
        columns = (*columns, f"{passed}{self._left()} left")
        self._since = self._since or (done, now)
        ended = done == self._total and not self._aside
        if self._live:
            text = self._on_terminal(columns, below, now)
            self._bar.update(self._task, completed=done, description=text)
        elif ended or now - self._last_line >= self._interval:
            self._last_line = now
            self._progress.say(self._text(*columns))
            if below is not None and self._progress.verbose:
                self._progress.say(f"  {'  '.join(below())}")

    def _on_terminal(
        self, columns: Sequence[str], below: Callable[[], Sequence[str]] | None, now: float
    ) -> str:
        """Returns the figures in lines that fit, which end between two figures."""
        if below is not None and now - self._below[0] >= BELOW_INTERVAL:
            self._below = now, below()
        width = self._progress.console.width
        room = width - (BAR_WIDTH + 1 if width >= MIN_WIDTH else 0) - 1
        lines = _packed([self._text(), *columns], room)
        if len(lines) == 1:
            return "\n".join([*lines, *_packed(self._below[1], room)])
        return "\n".join(lines[:-1] + _packed([lines[-1], *self._below[1]], room))

    def rate(self, done: int) -> float:
        """Returns the number per second; uses a loop's first update only while there is no
        other."""
        before, since = self._since or self._start
        return (done - before) / max(time.monotonic() - since, 1e-9)

    def _left(self) -> str:
        """Returns the time left, as hours:minutes:seconds."""
        left, rate = self._total - self.done, self.rate(self.done) if self._since else 0.0
        if left and not rate:
            return "-:--:--"
        return _clock(left / (rate or 1.0))

    def _text(self, *columns: str) -> str:
        return "  ".join([f"{self._name} {self.done}/{self._total}".lstrip(), *columns])


def _clock(seconds: float) -> str:
    """Returns a time as hours:minutes:seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))


def _packed(fields: Sequence[str], width: int) -> list[str]:
    """Returns lines of fields, as many in each as fit."""
    lines: list[str] = []
    for field in fields:
        if lines and len(lines[-1]) + 2 + len(field) <= width:
            lines[-1] += f"  {field}"
        else:
            lines.append(field)
    return lines
