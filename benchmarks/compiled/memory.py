"""What the LoRA step takes with each `train.remat`, and the batch that fits 6 to 24 GB.

python -m benchmarks.compiled.memory                          # this machine's compiler, float32
python -m benchmarks.compiled.memory --topology v5e:2x2 --dtype bfloat16
python -m benchmarks.compiled.memory --small

By the compiler's memory analysis, for some batches a row; nothing is run. The batches that fit lie
on the lines between them, past the last on the last line, with a tenth of the memory left free.
"""

import argparse
import pathlib
import sys
from typing import get_args

import numpy as np

from benchmarks.common.options import REAL, SMALL
from benchmarks.common.rows import Row, Rows
from benchmarks.compiled.mesh_step import config_of
from flax_sd.commands.plan.devices import local_target, topology_target
from flax_sd.commands.plan.program import Program
from flax_sd.models.unet_blocks import Remat
from flax_sd.system import sharding
from flax_sd.system.memory import bytes_per_device

SIZES = (6, 8, 12, 16, 24)  # GB of a device
FREE = 0.9


def largest(sizes: dict[int, float], room: float) -> int:
    """The batch that fits, by the GB that some batches take; 0 if the smallest of them does not."""
    batches, needed = zip(*sorted(sizes.items()), strict=True)
    if room < needed[0]:
        return 0
    slope = (batches[-1] - batches[-2]) / (needed[-1] - needed[-2])
    past = batches[-1] + (room - needed[-1]) * slope
    return int(past if room > needed[-1] else np.interp(room, needed, batches))


def row(label: str, held: float, sizes: dict[int, float], flops: float) -> Row:
    """A row of the table.

    Args:
      held: GB of weights and state.
      sizes: GB beside them, for some batches.
      flops: of an image.
    """
    return {
        "work": label,
        "GB of weights and state": held,
        **{f"GB beside, {batch} a device": size for batch, size in sizes.items()},
        "TFLOP an image": flops / 1e12,
        **{f"batch in {size} GB": largest(sizes, FREE * size - held) for size in SIZES},
    }


def main() -> None:
    """Compiles, remat by remat."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--topology", help="a TPU that is not there, such as v5e:2x2")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 2, 4], help="images a device, two or more"
    )
    parser.add_argument("--remat", nargs="+", default=get_args(Remat), choices=get_args(Remat))
    parser.add_argument("--small", action="store_true", help="the bundled model")
    parser.add_argument("--save", action="store_true", help="keep the rows for report.py")
    options = parser.parse_args()
    if len(set(options.batches)) < 2:
        parser.error(f"--batches {options.batches}: a line needs two that differ")
    model = (options.model or (SMALL if options.small else REAL)).resolve()
    target = topology_target(options.topology) if options.topology else local_target()
    mesh, rows = sharding.make_mesh(-1, 1, target.devices), Rows()
    for remat in options.remat:
        program = Program(config_of(model, len(target.devices), options.dtype, remat), mesh)
        sizes = {}
        for images in options.batches:
            compiled = program.compile_step(images * len(target.devices))
            if compiled is None:
                sys.exit(f"the compiler finds no room for {images} images a device")
            sizes[images] = compiled.size / 1e9
        held = bytes_per_device((program.state, program.frozen)) / 1e9
        label = f"{model.name}, {options.dtype}, remat {remat}, {options.topology or target.name}"
        rows.add(
            row(label, held, sizes, program.flops(len(target.devices))[0] / len(target.devices))
        )
    if options.save:
        rows.save("memory")


if __name__ == "__main__":
    main()
