"""flax-sd bench: times this machine, beside diffusers if it is installed."""

import datetime
import json
import pathlib
import shlex
import tempfile
from typing import NamedTuple

from rich.console import Console

from flax_sd.commands.bench import starts, table
from flax_sd.commands.bench.machine import load, machine, versions
from flax_sd.commands.bench.starts import Figures
from flax_sd.commands.bench.work import STEPS, Work
from flax_sd.config import flags
from flax_sd.config.commands import BenchOptions
from flax_sd.config.section import changed
from flax_sd.errors import UserError
from flax_sd.files.atomic import write_atomically
from flax_sd.system.exit_status import DONE
from flax_sd.system.progress import Progress
from flax_sd.weights.family import STABLE_DIFFUSION
from flax_sd.weights.model_files import ModelFiles

QUICK_STEPS = 4
SECONDS, QUICK_SECONDS = 10.0, 1.0  # for the runs after the first


class Case(NamedTuple):
    """Something that is timed.

    Attributes:
      name: of its function on either side.
      first: what its first run is called.
      counted: what is counted in a second.
    """

    name: str
    first: str
    counted: str


CASES = {
    "training": Case("whole_step", "first step", "training steps"),
    "images": Case("txt2img", "first image", "images"),
}


def main(options: BenchOptions) -> int:
    """Measures and prints a table.

    Raises:
      UserError: the model or an option is wrong, or a measurement failed.
    """
    if options.out is not None and options.out.is_dir():
        raise UserError(f"--out {options.out} is a folder: name a file, as bench.json")
    work = _work(options)
    progress = Progress(Console())  # as Progress() asks JAX, which would take the GPU's memory
    on = ", ".join(filter(None, [machine(), load()]))
    rows = Bench(options, work, progress).run(on)
    progress.say("")
    progress.table(table.padded(rows))
    if options.out is not None:
        write_atomically(
            options.out, json.dumps(_record(options, on, rows), ensure_ascii=False) + "\n"
        )
        progress.stage("written", str(options.out))
    return DONE


def _work(options: BenchOptions) -> Work:
    """Returns what is measured.

    Raises:
      UserError: there is no such model, it is no Stable Diffusion, or its VAE cannot make the size.
    """
    files = ModelFiles.find(options.model)
    if files.folder.is_file():
        raise UserError(f"--model {options.model} is a file: name a diffusers folder or a hub id")
    files.check_kind([STABLE_DIFFUSION])
    stride, side = files.network_config("vae").pixels_per_latent, options.resolution
    if side is not None and side % stride:
        raise UserError(f"--resolution is {side}: should be a multiple of {stride}")
    return Work(
        files.folder,
        options.batch_size,
        options.dtype,
        resolution=side,
        steps=options.steps or (QUICK_STEPS if options.quick else STEPS),
        seconds=QUICK_SECONDS if options.quick else SECONDS,
    )


class Bench:
    """The measurements, one process after the other."""

    def __init__(self, options: BenchOptions, work: Work, progress: Progress):
        self._options, self._work, self._progress = options, work, progress
        self._cases = [CASES[options.only]] if options.only else list(CASES.values())
        self._missing = starts.missing()
        self._total = len(self._cases) * options.repeats * (2 if self._missing else 3)
        self._done = 0

    def run(self, on: str) -> list[table.Row]:
        """Measures every case; returns the rows of the table."""
        options, say = self._options, self._progress.say
        say(f"{options.model}, batch {options.batch_size}, {options.dtype}, on {on}")
        if load():
            say("other programs are running: figures of a quiet machine are better")
        if self._missing:
            say(f"diffusers is left out; not installed: {', '.join(self._missing)}")
        say(f"{self._total} processes; a few minutes with the bundled model on 2 cores\n")
        starts.read_once(self._work.folder)
        return [row for case in self._cases for row in self._case(case)]

    def _case(self, case: Case) -> list[table.Row]:
        cold, warm, theirs = [], [], []
        for _ in range(self._options.repeats):
            with tempfile.TemporaryDirectory(prefix="bench-") as cache:
                folder = pathlib.Path(cache)
                cold.append(self._measure("ours", case, folder, "cold"))
                if not self._missing:
                    theirs += self._theirs(case, folder)
                warm.append(self._measure("ours", case, folder, "warm"))
        return table.rows(
            (case.first, case.counted),
            self._work.size if case.name == "txt2img" else 1,
            starts.median(cold),
            starts.median(warm),
            starts.median(theirs) if theirs else None,
        )

    def _theirs(self, case: Case, folder: pathlib.Path) -> list[Figures]:
        """Measures diffusers; a failure is said, and leaves its column empty."""
        try:
            return [self._measure("theirs", case, folder, "diffusers")]
        except UserError as error:
            self._progress.say(f"diffusers is left out of {case.counted}: {error}")
            return []

    def _measure(self, side: str, case: Case, folder: pathlib.Path, how: str) -> Figures:
        self._done += 1
        label = f"{self._done} of {self._total}: {case.first}, {how}"
        self._progress.say(f"           measuring {label}")
        cold = how == "cold"  # of which only the start is asked
        work = self._work._replace(seconds=0.0) if cold else self._work
        figures = starts.measure(side, case.name, work, folder)
        again = "" if figures.again is None else f", then {table.number(figures.again)} s each"
        self._progress.stage(label, f"{table.number(figures.first)} s on {figures.device}{again}")
        return figures


def _record(options: BenchOptions, on: str, rows: list[table.Row]) -> dict[str, object]:
    """Returns the figures for a file, with what is needed to judge them."""
    words = flags.words("bench")
    for name in changed(options):
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if name != "out":
            words += [flag] if value is True else [flag, str(value)]
    return {
        "command": shlex.join(words),
        "date": datetime.date.today().isoformat(),
        "machine": on,
        "versions": versions(),
        "rows": [row.record() for row in rows],
    }
