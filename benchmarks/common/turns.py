"""Two sides that take turns, so that whatever else the machine does hits both.

Both run with flax_sd's settings of the allocator, from which both gain.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks.common.options import ROOT
from flax_sd.commands.bench.work import Work
from flax_sd.system import allocator, compiler


class Side:
    """A process that does a side's work when it is told to.

    Attributes:
      first: seconds of the first run, compiling included.
      result: what the first run returned.
      seconds: of each turn.
      turns: GiB at the peak of the turns, of the device's memory where it has its own.
      whole: GiB at the peak of the whole process, loading and compiling included.
      device: what it ran on.
    """

    def __init__(self, name: str, case: str, work: Work):
        self.seconds: list[float] = []
        self.device = ""
        self.turns = self.whole = 0.0
        with tempfile.TemporaryDirectory() as scratch:
            result = pathlib.Path(scratch) / "result.npy"
            arguments = [name, case, work.argument(), str(result)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.against_torch.sides.process", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **allocator.environment(), compiler.VARIABLE: ""},
            )
            self.first: float = self._answer()["first"]
            self.result = np.load(result)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._process.args} ended with status {self._process.wait()}")
        return json.loads(line)

    def turn(self) -> None:
        """Runs once to warm up, then once by the clock."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"])
        self.turns, self.whole, self.device = answer["turns"], answer["whole"], answer["device"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def compare(case: str, our_work: Work, their_work: Work, repeats: int) -> tuple[Side, Side]:
    """Runs a case on both sides, ours first, in turns."""
    ours, theirs = Side("ours", case, our_work), Side("theirs", case, their_work)
    for _ in range(repeats):
        ours.turn()
        theirs.turn()
    ours.close()
    theirs.close()
    return ours, theirs


def difference(ours: Side, theirs: Side) -> float | str:
    """The largest difference of the results, of their largest value; no number for a scalar."""
    a, b = ours.result, theirs.result
    return float(np.abs(a - b).max() / np.abs(b).max()) if a.ndim else ""
