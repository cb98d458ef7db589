"""Compares several runs: a table in the terminal and a page."""

import pathlib
from collections.abc import Mapping, Sequence

from flax_sd.errors import UserError, all_of
from flax_sd.files.json_values import JsonObject
from flax_sd.reports import chart, curves, html
from flax_sd.reports.run_report import head
from flax_sd.reports.samples import samples
from flax_sd.run_folder import history
from flax_sd.run_folder.history import History
from flax_sd.run_folder.layout import BASE_LOSS, VAL_LOSS
from flax_sd.run_folder.saved_config import flatten, place

FIGURES = {  # of metrics.jsonl: what the tables call them, and how they are written
    "loss": ("training loss", "{:.4f}"),
    VAL_LOSS: ("held-out loss", "{:.4f}"),
    BASE_LOSS: ("loss on what the model knew before", "{:.4f}"),
    "images_per_second": ("images a second", "{:.3g}"),
    "device_gb": ("GB of a device", "{:.2f}"),
    "host_gb": ("GB of main memory", "{:.2f}"),
}
Table = list[list[object]]


def read_all(folders: Sequence[pathlib.Path]) -> dict[str, History]:
    """Reads the runs, by their folders' names, or by paths if two have one name.

    Raises:
      UserError: some are no runs, or there are none; all are named.
    """
    if not folders:
        raise UserError("name the folders of one run or more: flax-sd compare RUN RUN")
    found, problems = [], []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        try:
            found.append(history.read(folder))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(all_of(problems))
    names = [run.folder.name for run in found]
    unlike = len(set(names)) == len(names)
    return {run.folder.name if unlike else str(run.folder): run for run in found}


def figures(runs: Mapping[str, History]) -> Table:
    """Returns the figures at the end of the runs: a row a figure, a column a run."""
    rows: Table = [["step", *(run.step for run in runs.values())]]
    for name, (words, form) in FIGURES.items():
        values = [_ended(run, name, form) for run in runs.values()]
        if any(values):
            rows.append([words, *values])
    lowest = [curves.lowest_held_out(run) or None for run in runs.values()]
    return [*rows, ["lowest held-out loss", *lowest]] if any(lowest) else rows


def different(runs: Mapping[str, History]) -> Table:
    """Returns the options and the environment in which the runs differ."""
    made = {name: flatten(run.config) | _made_with(run) for name, run in runs.items()}
    names = dict.fromkeys(name for values in made.values() for name in values)
    rows = [[name, *(values.get(name) for values in made.values())] for name in names]
    return [row for row in rows if row[0] != "output" and not _are_alike(row[1:])]


def _are_alike(values: Sequence[object]) -> bool:
    first, *others = map(place, values)
    return all(each == first for each in others)


def compare_page(runs: Mapping[str, History], folder: pathlib.Path) -> str:
    """Returns the page, with links from that folder."""
    names = list(runs)
    parts = [
        html.table(["figure", *names], figures(runs)),
        "<h2>What differs</h2>",
        html.table(["option", *names], different(runs)),
    ]
    if len(runs) > 1 and not different(runs):
        parts[-1] = "<p>Nothing: the options are the same, and what they were made with.</p>"
    if any(run.grids for run in runs.values()):
        parts += ["<h2>Samples</h2>", samples(list(runs.values()), names, folder)]
    parts += ["<h2>Curves</h2>", chart.charts(curves.charts(runs))]
    return html.document("Runs compared", "\n".join(parts), head())


def _ended(run: History, name: str, form: str) -> str | None:
    """Returns a figure at the end; for a held-out loss, with its change."""
    if name not in (VAL_LOSS, BASE_LOSS):
        value = curves.latest(run, name)
        return None if value is None else form.format(value)
    line = curves.held_out(run, name)
    if line is None or line.y[-1] is None:
        return None
    change = curves.change_since_start(line)
    return form.format(line.y[-1]) + (f", {change}" if change else "")


def _made_with(run: History) -> JsonObject:
    """Returns the last start's environment, and the images' hash by option."""
    start = run.environment[-1] if run.environment else {}
    data = {f"{which} images": found.get("hash") for which, found in start.get("data", {}).items()}
    return {name: value for name, value in start.items() if name not in ("step", "data")} | data
