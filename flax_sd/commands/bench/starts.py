"""Starts the processes that are measured, and reads their figures."""

import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

from flax_sd.commands.bench.work import Work
from flax_sd.errors import UserError
from flax_sd.system import allocator
from flax_sd.system.compiler import VARIABLE

NEEDED = ("torch", "diffusers", "transformers", "peft")  # by diffusers' side
SOURCE = pathlib.Path(__file__).parents[3]  # where this flax_sd is imported from


class Figures(NamedTuple):
    """What one process measured, or the medians of several.

    Attributes:
      first: seconds from the start of the process to the end of its first run.
      cpu: seconds of all processors until then.
      peak: GiB at most, of the device's memory where it has its own; None if unknown.
      device: what it ran on.
      again: seconds of a later run; None if there was none.
    """

    first: float
    cpu: float
    peak: float | None
    device: str
    again: float | None = None


def missing() -> list[str]:
    """Returns the packages that diffusers' side needs and that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def measure(side: str, case: str, work: Work, cache: pathlib.Path) -> Figures:
    """Runs a case of a side in a new process, with the memory settings of the commands.

    Raises:
      UserError: the process failed.
    """
    # The safe path, for nothing in the user's folder should be imported by chance.
    command = [sys.executable, "-P", "-m", f"{__package__}.process", side, case, work.argument()]
    paths = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": paths, VARIABLE: str(cache), **allocator.environment()}
    ended = subprocess.run(
        [*command, str(time.monotonic())],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        raise UserError(
            f"{side} {case} ended with status {ended.returncode}: {'; '.join(said[-1:])}"
        )
    return Figures(**json.loads(ended.stdout.splitlines()[-1]))


def median(several: list[Figures]) -> Figures:
    """Returns the median of each figure."""
    firsts, cpus, peaks, devices, later = zip(*several, strict=True)
    first, cpu = statistics.median(firsts), statistics.median(cpus)
    return Figures(first, cpu, _median(peaks), devices[0], _median(later))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def read_once(folder: pathlib.Path) -> None:
    """Reads a model's files, so that no process waits for the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(2**24):
                    pass
