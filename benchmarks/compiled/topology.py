"""The LoRA step compiled for TPUs that are not there: memory, messages, and what they would cost.

python -m benchmarks.compiled.topology v5e:2x2 v5e:8x8 [--model DIR] [--images 8] [--remat blocks]
python -m benchmarks.compiled.topology v5e:2x2 --small

Needs the TPU compiler (pip install -e ".[tpu]") and no TPU; SD 1.5 takes ten minutes a topology.

What comes from the compiler: memory, collectives, bytes, copies. What is predicted from it and
from published figures of a chip: the step takes no less than its FLOPs at the chip's peak and no
less than its bytes at the memory's bandwidth; a ring over one link sums the gradients, with a
microsecond a hop, and nothing of that hides behind the step. Both make the efficiency look worse.
"""

import argparse
import pathlib
import re
import time
from typing import Any, NamedTuple

from benchmarks.common.options import REAL, SMALL
from benchmarks.common.rows import Row, Rows
from benchmarks.compiled.mesh_step import config_of
from flax_sd.commands.plan.collectives import collectives
from flax_sd.commands.plan.devices import Target, topology_target
from flax_sd.commands.plan.program import Program, size_of
from flax_sd.system import sharding
from flax_sd.system.memory import bytes_per_device

HOP = 1e-6  # seconds
# An instruction that moves an array into another layout: its dtype's bits and its shape.
_MOVED = re.compile(
    r"%(?:copy|transpose)[\w.-]* = \(?[a-z]+(\d+)\[([\d,]*)\]\S* (?:copy|transpose|fusion)\("
)


class Chip(NamedTuple):
    """Published figures: cloud.google.com/tpu/docs, by generation.

    Attributes:
      flops: of bfloat16 a second.
      memory: bytes a second.
      link: bytes a second of one link in one direction.
    """

    flops: float
    memory: float
    link: float


CHIPS = {
    "v4": Chip(275e12, 1228e9, 50e9),
    "v5e": Chip(197e12, 819e9, 50e9),
    "v5p": Chip(459e12, 2765e9, 100e9),
    "v6e": Chip(918e12, 1640e9, 112e9),
}


def moved(hlo: str) -> int:
    """Bytes that copies and transposes write, a loop's body once."""
    size = 0
    for line in hlo.splitlines():
        if found := _MOVED.search(line):
            elements = 1
            for axis in filter(None, found[2].split(",")):
                elements *= int(axis)
            size += elements * int(found[1]) // 8
    return size


def row(label: str, target: Target, program: Program, batch_size: int) -> Row:
    """Compiles for the target; a row of the table."""
    chips, chip = len(target.devices), CHIPS[target.name]
    start = time.perf_counter()
    lowered = program.lower_step(batch_size)
    traced = time.perf_counter()
    compiled: Any = lowered.compile()
    done = time.perf_counter()
    held = size_of(compiled, ()) + bytes_per_device((program.state, program.frozen))
    flops = program.flops(batch_size)[0] / chips
    read = compiled.cost_analysis()["bytes accessed"]
    traffic = collectives(compiled.as_text())
    sent = sum(size for _, size in traffic.values())
    busy = max(flops / chip.flops, read / chip.memory)
    summed = 2 * (chips - 1) / chips * sent / chip.link + 2 * (chips - 1) * HOP
    return {
        "work": label,
        "chips": chips,
        "tracing and lowering, s": traced - start,
        "compiling, s": done - traced,
        "GB a chip": held / 1e9,
        "TFLOP a chip": flops / 1e12,
        "GB read and written": read / 1e9,
        "GB copied or transposed": moved(compiled.as_text()) / 1e9,
        "collectives": ", ".join(f"{n} {kind}" for kind, (n, _) in traffic.items()) or "none",
        "MB of their results": sent / 1e6,
        "step at least, ms": busy * 1e3,
        "sum of gradients, ms": summed * 1e3,
        "predicted efficiency": f"{busy / (busy + summed):.1%}",
    }


def main() -> None:
    """Compiles, topology by topology."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("topologies", nargs="+")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=8, help="a chip")
    parser.add_argument("--remat", default="none", choices=("none", "blocks", "full"))
    parser.add_argument("--small", action="store_true", help="the bundled model")
    parser.add_argument("--save", action="store_true", help="keep the rows for report.py")
    options = parser.parse_args()
    model = (options.model or (SMALL if options.small else REAL)).resolve()
    rows = Rows()
    for name in options.topologies:
        target = topology_target(name)
        batch_size = options.images * len(target.devices)
        config = config_of(model, batch_size, "bfloat16", options.remat)
        program = Program(config, sharding.make_mesh(-1, 1, target.devices))
        label = f"{model.name}, {options.images} images a chip, remat {options.remat}, {name}"
        rows.add(row(label, target, program, batch_size))
    if options.save:
        rows.save("topology")


if __name__ == "__main__":
    main()
