"""What the devices of a LoRA step send one another, and what dividing the batch costs.

python -m benchmarks.compiled.scaling # the bundled model on 1, 2, 4 and 8 devices
python -m benchmarks.compiled.scaling --model DIR # that model, compiled from shapes and not run
python -m benchmarks.compiled.scaling --small             # runs once, with --model too

The devices are fake: they share this machine's cores. So the bytes are those of real devices, but
the seconds, with one image a device, show the overhead of dividing and no speed-up.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from benchmarks.common.options import ROOT, SMALL, add_common
from benchmarks.common.rows import Row, Rows

DEVICES, FEW_DEVICES = [1, 2, 4, 8], [1, 2]


def measure(model: pathlib.Path, devices: int, repeats: int) -> dict[str, Any]:
    """The figures of one number of devices, from a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.compiled.mesh_step",
        str(model),
        str(devices),
        str(repeats),
    ]
    environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(ended.stdout)


def row(label: str, devices: int, figures: dict[str, Any]) -> Row:
    """A row of the table; a single device has nothing to send."""
    traffic = figures["traffic"]
    sent = sum(size for _, size in traffic.values())
    gradient = figures["gradient"] if devices > 1 else 0
    kinds = [f"{count} {kind}" for kind, (count, _) in traffic.items()]
    found: Row = {
        "work": f"LoRA step, {label}, {devices} device{'s' if devices > 1 else ''}",
        "collectives": ", ".join(kinds) or "none",
        "bytes of their results": sent,
        "bytes of the gradient": gradient,
        "beside the gradient": sent - gradient,
    }
    if "seconds" in figures:
        found["s a step"] = figures["seconds"]
    return found


def main() -> None:
    """Measures, device count by device count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    parser.add_argument("--model", type=pathlib.Path, help="compile this one from shapes")
    parser.add_argument("--devices", type=int, nargs="+", help="1 2 4 8, or with --small 1 2")
    options = parser.parse_args()
    model = (options.model or SMALL).resolve()
    repeats = 1 if options.small else 0 if options.model else options.repeats
    rows = Rows()
    for devices in options.devices or (FEW_DEVICES if options.small else DEVICES):
        figures = measure(model, devices, repeats)
        rows.add(row(model.name, devices, figures))
    if options.save:
        rows.save("scaling")


if __name__ == "__main__":
    main()
