"""Ours against diffusers on torch: the same work, in turns, in one run.

python -m benchmarks.against_torch.speed unet --batch 1 2  # lora_step, txt2img, …
python -m benchmarks.against_torch.speed lora_step --dtype bfloat16 --compile  # on a GPU
python -m benchmarks.against_torch.speed unet --small # the bundled model: shows that it runs

Each side has a process of its own, and with it a memory of its own. In a turn a side runs once
untimed and once timed; where a run takes minutes it is the timed one alone, and a first run before
which nothing was compiled counts. Prints a table: median seconds (lowest–highest); the peak of
memory while the turns run (on a GPU, of its memory), and that of the whole process, loading and
compiling included. TFLOP/s are the network's operations, however they are computed, and MFU is
their share of what the device can do.
"""

import argparse
import json
import statistics

from benchmarks.common.options import add_model, find_model
from benchmarks.common.rows import Row, Rows
from benchmarks.common.turns import Side, compare, difference
from benchmarks.compiled import flops
from flax_sd.commands.bench.work import Work
from flax_sd.training.monitoring.throughput import peak_flops

CASES = ("unet", "lora_step", "whole_step", "txt2img", "vae", "text")
DTYPES = ("float32", "bfloat16", "float16")


def label(case: str, ours: Work, theirs: Work) -> str:
    """What is compared, in words."""
    words = [case, f"batch {ours.size}"]
    same = ours.dtype == theirs.dtype
    words.append(ours.dtype if same else f"{ours.dtype}, torch {theirs.dtype}")
    words += ["remat"] * ours.remat + ["torch.compile"] * theirs.compiled
    return ", ".join(words)


def use_of_device(case: str, work: Work, side: Side) -> Row:
    """How near our side comes to what its device can do, if anybody knows that."""
    peak = peak_flops(side.device, work.dtype)
    if peak is None:
        return {}
    config = json.loads((work.folder / "unet" / "config.json").read_text())
    forward, step = flops.count(config)
    counted = {"unet": forward, "lora_step": step}
    if case not in counted:
        return {"flax_sd, TFLOP/s": "", "MFU": ""}
    reached = counted[case] * work.size / statistics.median(side.seconds)
    return {"flax_sd, TFLOP/s": reached / 1e12, "MFU": f"{reached / peak:.0%}"}


def row(label: str, ours: Side, theirs: Side) -> Row:
    """A row of the table."""
    return {
        "work": label,
        "flax_sd, s": ours.seconds,
        "torch, s": theirs.seconds,
        "ratio of time": statistics.median(ours.seconds) / statistics.median(theirs.seconds),
        "flax_sd, GiB": ours.turns,
        "torch, GiB": theirs.turns,
        "ratio of memory": ours.turns / theirs.turns,
        "flax_sd whole, GiB": ours.whole,
        "torch whole, GiB": theirs.whole,
        "compiling and first run, s": ours.first,
        "largest difference": difference(ours, theirs),
    }


def main() -> None:
    """Compares, batch by batch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=CASES)
    add_model(parser)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--our-dtype", choices=DTYPES, help="ours, where it is another")
    parser.add_argument("--remat", action="store_true", help="steps keep the blocks' inputs alone")
    parser.add_argument("--compile", action="store_true", help="torch.compile for torch's side")
    options = parser.parse_args()
    model = find_model(parser, options)
    repeats = 1 if options.small else options.repeats
    rows = Rows()
    for batch in options.batch:
        given = Work(model, batch, options.dtype, options.remat)
        ours = given._replace(dtype=options.our_dtype or options.dtype)
        theirs = given._replace(compiled=options.compile)
        sides = compare(options.case, ours, theirs, repeats)
        compared = row(label(options.case, ours, theirs), *sides)
        rows.add(compared | use_of_device(options.case, ours, sides[0]))
    if options.save:
        rows.save("speed")


if __name__ == "__main__":
    main()
