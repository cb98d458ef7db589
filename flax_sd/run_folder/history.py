"""The files of a run's folder, read while the run trains or after it."""

import pathlib
import re
import sys
from typing import NamedTuple

import yaml

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
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

Row = JsonObject  # a line of a file; each has its step
_GRID = re.compile(r"step-(\d+)\.png")


class History(NamedTuple):
    """A run so far.

    Attributes:
      config: the options in config.yaml.
      metrics, validation: lines, each with its step.
      environment: the entries of environment.json, oldest first.
      grids: sample images by step.
      sheet, data_report: paths, if the files exist.
    """

    folder: pathlib.Path
    config: JsonObject
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
        """Returns the steps and values of an entry of metrics.jsonl, where it was logged."""
        rows = [row for row in self.metrics if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]


def read(folder: pathlib.Path) -> History:
    """Reads a run's folder; a line that is being written is ignored.

    Raises:
      UserError: there is no run in it, or a file cannot be read.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a run's folder: it has no {CONFIG}")
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


def _config(path: pathlib.Path) -> JsonObject:
    """Reads the options as they were written, also by another version."""
    try:
        return yaml.safe_load(read_text(path)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error


def _rows(path: pathlib.Path) -> list[Row]:
    """Reads the complete lines, in the order of their steps."""
    return sorted(StepLines(path).read(sys.maxsize), key=lambda row: row["step"])
