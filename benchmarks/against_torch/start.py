"""From the start of a process to its first LoRA step: compiling, compiled before, and torch.

python -m benchmarks.against_torch.start [--model DIR] [--dtype bfloat16]
python -m benchmarks.against_torch.start --small

Every run is a process of its own. The first of ours is cold and fills a compile cache, from which
the later, warm ones read; these take turns with torch. The weights' file is read once before, so
that nobody waits for the disk.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.against_torch.sides.inputs import Work
from benchmarks.common.options import ROOT, add_model, find_model
from benchmarks.common.rows import Row, Rows
from flax_sd.system import allocator


class Start:
    """A way to start, and what was measured of it."""

    def __init__(self, label: str, side: str, arguments: list[str], environ: dict[str, str]):
        self.label, self.answers = label, []
        self._command = [
            sys.executable,
            "-m",
            "benchmarks.against_torch.sides.first_step",
            side,
            *arguments,
        ]
        self._environ = {**os.environ, **allocator.environment(), **environ}

    def run(self) -> None:
        """Starts a process and waits for its first step."""
        start = time.perf_counter()
        ended = subprocess.run(
            self._command, cwd=ROOT, env=self._environ, stdout=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - start
        if ended.returncode:
            sys.exit(f"{self._command} ended with status {ended.returncode}")
        answer: dict[str, Any] = json.loads(ended.stdout)
        self.answers.append({**answer, "all": seconds})

    def all(self, name: str) -> list[float]:
        """A figure of every run; none where the side has no such figure."""
        return [answer[name] for answer in self.answers if name in answer]

    def median(self, name: str) -> float:
        """Of the runs."""
        return statistics.median(self.all(name))


def row(start: Start, theirs: Start) -> Row:
    """A row of the table."""
    return {
        "work": start.label,
        "whole process, s": start.all("all"),
        "from the file on, s": start.all("load"),
        "tracing and lowering, s": start.all("lower") or "",
        "compiling, s": start.all("compile") or "",
        "peak, GiB": start.all("peak"),
        "ratio of time": "" if start is theirs else start.median("all") / theirs.median("all"),
        "ratio of memory": "" if start is theirs else start.median("peak") / theirs.median("peak"),
    }


def read_once(folder: pathlib.Path) -> None:
    """Brings files into the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(2**24):
                pass


def measure(model: pathlib.Path, dtype: str, repeats: int) -> tuple[Start, Start, Start]:
    """Cold, warm and torch, measured."""
    arguments = [Work(model, dtype=dtype).argument()]
    with tempfile.TemporaryDirectory() as cache:
        kept = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        cold = Start(f"first LoRA step, {dtype}, cold", "ours", arguments, kept)
        warm = Start(f"first LoRA step, {dtype}, warm", "ours", arguments, kept)
        theirs = Start(f"first LoRA step, {dtype}, torch", "theirs", arguments, {})
        read_once(model / "unet")
        cold.run()
        for _ in range(repeats):
            warm.run()
            theirs.run()
    return cold, warm, theirs


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model(parser)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    model = find_model(parser, options)
    cold, warm, theirs = measure(model, options.dtype, 1 if options.small else options.repeats)
    rows = Rows()
    for start in (cold, warm, theirs):
        rows.add(row(start, theirs))
    print(f"\nwarm start, of the cold one: {warm.median('all') / cold.median('all'):.0%}")
    if options.save:
        rows.save("start")


if __name__ == "__main__":
    main()
