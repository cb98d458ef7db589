"""What it takes to compile the LoRA step, the step's time, and how many programs a sweep needs.

python -m benchmarks.compiled.compile_time                 # this checkout
python -m benchmarks.compiled.compile_time --before DIR    # another checkout too, in turns
python -m benchmarks.compiled.compile_time --small

The rows: the quickstart and, unless --small, the steps of configs/sd15_lora.yaml with random
weights and of configs/sdxl_lora.yaml, which is compiled and not run. The last column counts the
programs of eight runs that differ in one number each, such as the learning rate or the number of
steps, and the run as it is.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.common.options import ROOT, SMALL, add_common
from benchmarks.common.real_size import write_configs
from benchmarks.common.rows import Row, Rows

SCRIPT = pathlib.Path(__file__).with_name("one_step.py")


def measure(checkout: pathlib.Path, recipe: str, model: pathlib.Path, *counts: int) -> Row:
    """Returns the figures of a recipe's step, by a process that imports the checkout's flax_sd.

    Args:
      counts: steps to time, or 0; 1 to count programs, or 0.
    """
    words = [str(ROOT / "configs" / recipe), str(model), *map(str, counts)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, str(SCRIPT), *words]
    ended = subprocess.run(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(ended.stdout.splitlines()[-1])


def name_of(checkout: pathlib.Path) -> str:
    """Returns the commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def merged(rows: list[Row]) -> Row:
    """Returns each figure's values of all repeats."""

    def values(name: str) -> Any:
        found = [row[name] for row in rows]
        lists = [value if isinstance(value, list) else [value] for value in found]
        return sum(lists, []) if name.endswith(" s") else found[0]

    return {name: values(name) for name in rows[0]}


def _real_cases(scratch: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, int, int]]:
    """Yields the recipes of the families with the configs of their real sizes, and counts."""
    for recipe, family, steps in (("sd15_lora", "sd15", 3), ("sdxl_lora", "sdxl", 0)):
        write_configs(family, scratch / family)
        yield f"{recipe}.yaml", scratch / family, steps, 0


def main() -> None:
    """Measures each recipe on each checkout, in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        help="alone, in place of SD 1.5, or with --small of the bundled base; only its configs are "
        "read",
    )
    parser.add_argument("--before", type=pathlib.Path, help="an older checkout")
    options = parser.parse_args()
    checkouts = [*([options.before.resolve()] if options.before else []), ROOT]
    repeats, rows = 1 if options.small else options.repeats, Rows()
    with tempfile.TemporaryDirectory() as scratch:
        if options.small:
            cases = [("quickstart.yaml", options.model or SMALL, 2, 1)]
        else:
            cases = [("quickstart.yaml", SMALL, 20, 1)]
            if options.model is not None:
                cases.append(("sd15_lora.yaml", options.model, 3, 0))
            else:
                cases += list(_real_cases(pathlib.Path(scratch)))
        for recipe, model, *counts in cases:
            found: dict[pathlib.Path, list[Row]] = {checkout: [] for checkout in checkouts}
            for _ in range(repeats):
                for checkout in checkouts:
                    found[checkout].append(measure(checkout, recipe, model.resolve(), *counts))
            for checkout, figures in found.items():
                rows.add({"work": f"{recipe}, {name_of(checkout)}", **merged(figures)})
    if options.save:
        rows.save("compile_time")


if __name__ == "__main__":
    main()
