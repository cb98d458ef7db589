"""Ours against diffusers on torch: the same work, in turns, in one run.

python benchmarks/speed.py unet --batch 1 2      # or lora_step, txt2img, vae, text
python benchmarks/speed.py unet --small          # the bundled model: shows that it runs

Each side has a process of its own, and with it a peak of memory of its own. They take turns, so
that whatever else the machine does hits both. Prints a table for docs/performance.md: median
seconds (lowest–highest), and the peak of anonymous memory.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).parent
SMALL = HERE.parent / "flax_sd" / "bundled" / "base"
CASES = ("unet", "lora_step", "txt2img", "vae", "text")
# Both sides spend seconds a run on page faults unless glibc keeps what it was given.
ALLOCATOR = {
    "GLIBC_TUNABLES": ":".join(
        [
            "glibc.malloc.mmap_threshold=8589934592",
            "glibc.malloc.trim_threshold=8589934592",
            "glibc.malloc.top_pad=268435456",
            "glibc.malloc.hugetlb=1",
        ]
    )
}


class Side:
    """A process that runs one side when it is told to."""

    def __init__(self, name: str, arguments: list[str]):
        self.seconds: list[float] = []
        self._folder = tempfile.TemporaryDirectory()
        self._result = pathlib.Path(self._folder.name) / "result.npy"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sides.process", name, *arguments, str(self._result)],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ALLOCATOR},
        )
        self.start = self._answer()
        self.result = np.load(self._result)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._process.args} ended with status {self._process.wait()}")
        return json.loads(line)

    def turn(self) -> None:
        """Runs once."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.peak = answer["peak"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._folder.cleanup()


COLUMNS = (
    "work",
    "flax_sd",
    "torch",
    "ratio",
    "flax_sd, GiB",
    "torch, GiB",
    "ratio of memory",
    "compiling and first run",
    "largest difference",
)


def compare(arguments: list[str], repeats: int) -> tuple[Side, Side]:
    """Runs both sides in turns."""
    ours, theirs = (Side(name, arguments) for name in ("ours", "theirs"))
    for _ in range(repeats):
        ours.turn()
        theirs.turn()
    ours.close()
    theirs.close()
    return ours, theirs


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.2f} s ({min(values):.2f}–{max(values):.2f})"


def row(label: str, ours: Side, theirs: Side) -> str:
    """A row of the table."""
    ratio = statistics.median(ours.seconds) / statistics.median(theirs.seconds)
    a, b = ours.result, theirs.result
    agreement = f"{np.abs(a - b).max() / np.abs(b).max():.0e}" if a.ndim else ""
    cells = [
        label,
        spread(ours.seconds),
        spread(theirs.seconds),
        f"{ratio:.2f}",
        f"{ours.peak:.1f}",
        f"{theirs.peak:.1f}",
        f"{ours.peak / theirs.peak:.2f}",
        f"{ours.start['first']:.0f} s",
        agreement,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Compares, size by size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("runs/real_size/sd15"))
    parser.add_argument("--small", action="store_true", help="the bundled model, one run each")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = SMALL if options.small else options.model
    if not model.is_dir():
        parser.error(f"{model} is not there: python benchmarks/real_size.py sd15 --write-only")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for batch in options.batch:
        arguments = [options.case, str(model.resolve()), str(batch), options.dtype]
        sides = compare(arguments, 1 if options.small else options.repeats)
        print(row(f"{options.case}, batch {batch}, {options.dtype}", *sides), flush=True)


if __name__ == "__main__":
    main()
