"""Rows of figures: printed as a table, and saved with what is needed to judge them."""

import datetime
import json
import pathlib
import shlex
import statistics
import sys
from typing import Any

from benchmarks.common.options import ROOT
from flax_sd.commands.bench.machine import machine, versions
from flax_sd.commands.bench.table import number

RESULTS = ROOT / "benchmarks" / "results"

# By column. A list holds repeated measurements: its median and range are shown.
Row = dict[str, str | float | list[float]]


class Rows:
    """The rows of one benchmark, printed as they come."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Prints a row, under a head of its own if its columns are not those before."""
        if not self._rows or list(self._rows[-1]) != list(row):
            print(("\n" if self._rows else "") + head(row))
        print(line(row), flush=True)
        self._rows.append(row)

    def save(self, name: str, folder: pathlib.Path = RESULTS) -> None:
        """Writes the rows as JSON lines, in place of those that the same command left before."""
        about = provenance(sys.argv)
        path = folder / f"{name}.json"
        kept = [old for old in read(path) if old["command"] != about["command"]]
        records = [*kept, *({**about, "row": row} for row in self._rows)]
        folder.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """What `save` or `flax-sd bench --out` wrote; nothing if there is no file."""
    records = map(json.loads, path.read_text().splitlines() if path.is_file() else [])
    return [
        {**record, "row": row}
        for record in records
        for row in record.pop("rows", [record.get("row")])
    ]


def provenance(argv: list[str]) -> dict[str, Any]:
    """Command, date, machine and versions."""
    script, *arguments = argv
    module = ".".join(pathlib.Path(script).relative_to(ROOT).with_suffix("").parts)
    command = ["python", "-m", module.removesuffix(".__main__"), *arguments]
    return {
        "command": shlex.join(word for word in command if word != "--save"),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
    }


def head(row: Row) -> str:
    """The head of the table that the row belongs to."""
    return f"| {' | '.join(row)} |\n|{'---|' * len(row)}"


def line(row: Row) -> str:
    """The row in the table."""
    return f"| {' | '.join(map(cell, row.values()))} |"


def cell(value: str | float | list[float]) -> str:
    """A value as it is shown; repeated measurements as median (lowest–highest)."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) > 1:
        middle, low, high = statistics.median(value), min(value), max(value)
        return f"{number(middle)} ({number(low)}–{number(high)})"
    return number(value[0] if isinstance(value, list) else value)
