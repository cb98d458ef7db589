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

from flax_sd import allocator, compiler

HERE = pathlib.Path(__file__).parent


class Side:
    """A process that does a side's work when it is told to.

    Attributes:
      first: seconds of the first run, compiling included.
      result: what the first run returned.
      seconds: of each turn.
      turns: GiB at the peak of the turns.
      whole: GiB at the peak of the whole process, loading and compiling included.
    """

    def __init__(self, name: str, case: str, folder: pathlib.Path, size: int, dtype: str):
        self.seconds: list[float] = []
        self.turns = self.whole = 0.0
        with tempfile.TemporaryDirectory() as scratch:
            result = pathlib.Path(scratch) / "result.npy"
            work = [name, case, str(folder.resolve()), str(size), dtype, str(result)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sides.process", *work],
                cwd=HERE,
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
        self.turns, self.whole = answer["turns"], answer["whole"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def compare(
    case: str, folder: pathlib.Path, size: int, dtypes: tuple[str, str], repeats: int
) -> tuple[Side, Side]:
    """Runs a case on both sides, ours first, in turns."""
    ours, theirs = (
        Side(name, case, folder, size, dtype)
        for name, dtype in zip(("ours", "theirs"), dtypes, strict=True)
    )
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
