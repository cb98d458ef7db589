"""What a run has left in its folder, read while it goes on or after it."""

import pathlib
import re
import sys
from typing import Any, NamedTuple

import yaml

from flax_sd.errors import UserError
from flax_sd.files.text import read_text
from flax_sd.run_folder import environment as environment_record
from flax_sd.run_folder.layout import (
    CONFIG,
    DATA_REPORT,
    METRICS,
    SAMPLES_FOLDER,
    SHEET,
    VALIDATION,
)
from flax_sd.run_folder.step_lines import StepLines

Row = dict[str, Any]  # a line of a file; each has its step
_GRID = re.compile(r"step-(\d+)\.png")


class History(NamedTuple):
    """A run so far.

    Attributes:
      config: as config.yaml has it.
      environment: of each start whose environment was another, the first first.
      grids: sample pictures by step.
      sheet, data_report: those that are there.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    metrics: list[Row]
    validation: list[Row]
    environment: list[Row]
    grids: dict[int, pathlib.Path]
    sheet: pathlib.Path | None
    data_report: pathlib.Path | None

    @property
    def step(self) -> int:
        """The last step that was logged; 0 before the first."""
        return max((row["step"] for row in self.metrics), default=0)

    def series(self, name: str) -> tuple[list[int], list[int | float | None]]:
        """A figure of metrics.jsonl where it was logged: steps, and values or None."""
        rows = [row for row in self.metrics if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]


def read(folder: pathlib.Path) -> History:
    """Reads a run's folder; a line that is being written is left for the next time.

    Raises:
      UserError: there is no run in it, or a file cannot be read.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run's folder: it holds no {CONFIG}")
    grids = {
        int(found[1]): path
        for path in sorted((folder / SAMPLES_FOLDER).glob("step-*.png"))
        if (found := _GRID.fullmatch(path.name))
    }
    sheet, data_report = folder / SAMPLES_FOLDER / SHEET, folder / DATA_REPORT
    return History(
        folder,
        _config(folder / CONFIG),
        _rows(folder / METRICS),
        _rows(folder / VALIDATION),
        environment_record.read(folder),
        grids,
        sheet if sheet.is_file() else None,
        data_report if data_report.is_file() else None,
    )


def _config(path: pathlib.Path) -> dict[str, Any]:
    """The options as they were written, those of another version too."""
    try:
        return yaml.safe_load(read_text(path)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error


def _rows(path: pathlib.Path) -> list[Row]:
    """The whole lines, in the order of their steps."""
    return sorted(StepLines(path).read(sys.maxsize), key=lambda row: row["step"])
