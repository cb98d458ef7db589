"""Ours against diffusers on torch: the same work, in turns, in one run.

python benchmarks/speed.py unet --batch 1 2      # or lora_step, whole_step, txt2img, vae, text
python benchmarks/speed.py unet --small          # the bundled model: shows that it runs

Each side has a process of its own, and with it a memory of its own. In a turn a side runs once
untimed, unless that takes minutes, and once timed. Prints a table: median seconds
(lowest–highest); the peak of memory while the turns run, and that of the whole process, loading and
compiling included.
"""

import argparse
import statistics

from options import add_model, find_model
from rows import Row, Rows
from turns import Side, compare, difference

CASES = ("unet", "lora_step", "whole_step", "txt2img", "vae", "text")
DTYPES = ("float32", "bfloat16", "float16")


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
    options = parser.parse_args()
    model = find_model(parser, options)
    dtypes = (options.our_dtype or options.dtype, options.dtype)
    shown = dtypes[0] if len(set(dtypes)) == 1 else "{}, torch {}".format(*dtypes)
    rows = Rows()
    for batch in options.batch:
        sides = compare(options.case, model, batch, dtypes, 1 if options.small else options.repeats)
        rows.add(row(f"{options.case}, batch {batch}, {shown}", *sides))
    if options.save:
        rows.save("speed")


if __name__ == "__main__":
    main()
