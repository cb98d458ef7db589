"""report.html: a run on one page that opens from the file system, while it trains and after it."""

import contextlib
import datetime
import math
import pathlib
import time
from collections.abc import Iterator
from typing import Literal

import jax
import yaml

from flax_sd.config import Config, to_dict
from flax_sd.errors import UserError
from flax_sd.files.atomic import write_atomically
from flax_sd.reports import chart, curves, html
from flax_sd.reports.samples import link, opens_large, samples, scripts
from flax_sd.run_folder import history
from flax_sd.run_folder.history import History
from flax_sd.run_folder.layout import BASE_LOSS, REPORT, VAL_LOSS
from flax_sd.run_folder.saved_config import flatten
from flax_sd.system.progress import Progress

EVERY = 20  # seconds between two writings, at least
MAX_SHARE_OF_TIME = 0.005  # that writing may take
State = Literal["training", "stopped", "finished", "failed"]
STYLE = chart.WEB / "report.css"
RELOAD = (
    f'<p><label><input type="checkbox" class="reload" data-seconds="{EVERY}" checked> '
    f"load this page again every {EVERY} seconds</label></p>"
)


class LiveReport:
    """Keeps the page of a running training up to date; it is complete at any time."""

    def __init__(self, folder: pathlib.Path, total: int, progress: Progress):
        """Writes nothing yet; `total` is the number of steps of the whole run."""
        self._folder, self._total, self._progress = folder, total, progress
        self._next = -math.inf  # seconds of the monotonic clock

    def refresh(self) -> None:
        """Writes the page again, unless it was written a moment ago."""
        if time.monotonic() >= self._next:
            self.write("training")

    @contextlib.contextmanager
    def of_an_error(self) -> Iterator[None]:
        """Adds to the page the error that ends the block, if one does."""
        try:
            yield
        except Exception as error:
            self.write("failed", str(error))
            raise

    def write(self, state: State, why: str = "") -> None:
        """Writes the page; if it cannot be written, prints a warning and the run continues.

        Args:
          why: it failed.
        """
        if jax.process_index() != 0:
            return
        start = time.monotonic()
        try:
            text = report_page(history.read(self._folder), self._total, state, why)
            write_atomically(self._folder / REPORT, text)
        except UserError as error:
            self._progress.say(f"warning: {error}")
        took = time.monotonic() - start
        self._next = time.monotonic() + max(EVERY, took / MAX_SHARE_OF_TIME)


def report_page(run: History, total: int, state: State, why: str = "") -> str:
    """Returns the page of a run of `total` steps; `why` it failed, if it did."""
    parts = [
        _status(run, total, state, why),
        _tiles(run, total),
        _images(run),
        "<h2>Curves</h2>",
        chart.charts(curves.charts({run.folder.name: run})),
        _skipped(run),
        _data(run),
        _config(run),
        _environment(run),
    ]
    return html.document(f"Run {run.folder.name}", "\n".join(parts), head())


def head() -> str:
    """Returns style and scripts."""
    style = STYLE.read_text("utf-8")
    return f"<style>{style}</style>{chart.head()}<script>\n{scripts()}</script>"


def _status(run: History, total: int, state: State, why: str) -> str:
    early = f" of {total}: {VAL_LOSS} no longer improved" if run.step < total else ""
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    words = {
        "training": f"Training: step {run.step} of {total}.",
        "stopped": f"Stopped after step {run.step} of {total}. "
        "Run the same command again to resume.",
        "finished": f"Finished after {run.step} steps{early}.",
        "failed": f"Ended after step {run.step} of {total} by an error:",
    }[state]
    width = 100 * min(1.0, run.step / total)
    done = f'<div class="bar"><div style="width:{width:.1f}%"></div></div>'
    bar = "" if state == "finished" else done
    error = f'<pre tabindex="0">{html.text(why)}</pre>' if why else ""
    follow = RELOAD if state == "training" else ""
    return f'<p>{words} <span class="quiet">Written {now}.</span></p>{follow}{error}{bar}'


def _tiles(run: History, total: int) -> str:
    """Returns the most important figures."""
    tiles = []
    for name, words in ((VAL_LOSS, "held-out loss"), (BASE_LOSS, "loss on what it knew before")):
        line = curves.held_out(run, name)
        if line and (said := curves.change_since_start(line)):
            figure, _, more = _typeset(said).partition(" (")
            since = f"{words}, since step {line.x[0]}"
            tiles.append((figure, f"{since} ({more}" if more else since))
    figures = [
        ("loss", "training loss", "{:.4f}"),
        ("images_per_second", "images a second", "{:.3g}"),
        ("mfu", "of the device's peak", "{:.0%}"),
        ("device_gb", "GB of a device", "{:.2f}"),
        ("host_gb", "GB of main memory", "{:.2f}"),
    ]
    for name, words, form in figures:
        value = curves.latest(run, name)
        if value is not None:
            tiles.append((form.format(value), words))
    shown = "".join(f'<div class="tile"><b>{a}</b><span>{b}</span></div>' for a, b in tiles)
    lowest = _typeset(curves.lowest_held_out(run))
    best = f"<p>Lowest held-out loss: {lowest} since step 0.</p>" if lowest else ""
    return f'<div class="tiles">{shown}</div>{best}'


def _typeset(change: str) -> str:
    return change.replace("-", "−").replace("%", " %")


def _images(run: History) -> str:
    parts = []
    if run.grids:
        parts += ["<h2>Samples</h2>", samples([run], [""], run.folder)]
    if run.sheet:
        address = link(run.sheet, run.folder)
        parts += ["<h3>Before and after</h3>", opens_large(address, "before and after training")]
    return "\n".join(parts)


def _skipped(run: History) -> str:
    """Returns the steps that train.on_nonfinite skipped."""
    rows: list[list[object]] = [
        [row["step"], ", ".join(row["pictures"])] for row in run.metrics if row.get("pictures")
    ]
    return f"<h2>Skipped steps</h2>{html.table(['step', 'its images'], rows)}" if rows else ""


def _data(run: History) -> str:
    sets = run.environment[-1].get("data", {}) if run.environment else {}
    facts = ("path", "pictures", "captions", "left_out", "hash")
    rows: list[list[object]] = [
        [which, *(found.get(name) for name in facts)] for which, found in sets.items()
    ]
    columns = ["set", "from", "images", "captions", "left out", "hash"]
    shown = html.table(columns, rows) if rows else ""
    if run.data_report:
        address = html.text(link(run.data_report, run.folder))
        shown += f'<p><a href="{address}">All that was found about them</a></p>'
    return f"<h2>Images and captions</h2>{shown}" if shown else ""


def _config(run: History) -> str:
    given, defaults = flatten(run.config), flatten(to_dict(Config()))
    rows: list[list[object]] = [
        [name, value, defaults.get(name)]
        for name, value in given.items()
        if value != defaults.get(name) and name != "output"
    ]
    whole = html.text(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
    return (
        f"<h2>Options</h2>\n{html.table(['option', 'here', 'default'], rows)}\n"
        "<details><summary>All options (config.yaml)</summary>"
        f'<pre tabindex="0">{whole}</pre></details>'
    )


def _environment(run: History) -> str:
    """Returns the environment; a column for each start in another one."""
    starts = run.environment
    if not starts:
        return ""
    names = [name for name in starts[-1] if name not in ("step", "data")]
    rows: list[list[object]] = [[name, *(start.get(name) for start in starts)] for name in names]
    columns = ["made with", *(f"from step {start['step']}" for start in starts)]
    return f"<h2>Made with</h2>\n{html.table(columns, rows)}"
