"""Seconds from the start of a training run to the end of its first step: the first start, the next.

python -m benchmarks.compiled.second_start                        # the quickstart
python -m benchmarks.compiled.second_start CONFIG --data.path DIR # options of train.py

Both starts are the same command, but for their folders. Each pair has a cache folder of its own.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.common.options import ROOT, add_common
from benchmarks.common.rows import Rows
from flax_sd.system.compiler import VARIABLE

QUICKEST = ["--train.steps", "1", "--sample.steps", "1", "--sample.prompts", '["a cat"]']


def seconds_to_first_step(words: list[str], output: pathlib.Path, cache: pathlib.Path) -> float:
    """Starts a run, and ends it when it prints its first step.

    Raises:
      SystemExit: it ended before.
    """
    command = [sys.executable, str(ROOT / "train.py"), *words, "--output", str(output)]
    # Both caches: the first start is to find nothing, wherever this process keeps its programs.
    own = {"XDG_CACHE_HOME": str(cache), VARIABLE: str(cache / "compiled"), "PYTHONUNBUFFERED": "1"}
    begun, printed = time.monotonic(), []
    with subprocess.Popen(
        command,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            printed.append(line)
            if line.startswith("step "):
                taken = time.monotonic() - begun
                run.kill()
                return taken
    sys.exit("".join(printed))


def main() -> None:
    """Measures pairs of starts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    options, words = parser.parse_known_args()
    first, second = [], []
    for _ in range(1 if options.small else options.repeats):
        with tempfile.TemporaryDirectory(prefix="starts-") as scratch:
            folder = pathlib.Path(scratch)
            for seconds, name in ((first, "first"), (second, "second")):
                given = [*words, *(QUICKEST if options.small else [])]
                seconds.append(seconds_to_first_step(given, folder / name, folder / "cache"))
    rows = Rows()
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    work = " ".join(["train.py", *words])
    rows.add({"work": work, "first start, s": first, "second start, s": second, "ratio": ratios})
    if options.save:
        rows.save("second_start")


if __name__ == "__main__":
    main()
