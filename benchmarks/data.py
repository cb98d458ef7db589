"""Pictures a second from files to batches, beside torch's way; and how long a run waits for them.

python benchmarks/data.py
python benchmarks/data.py --small

Pictures of 768 x 640 pixels, half of them JPEG and half PNG, are written to a temporary folder and
cut to 512 x 512. Ours decodes in threads, torch's DataLoader in processes; they take turns. Then a
short training run on the bundled model reads the same folder at the model's own size.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from options import SMALL, add_common, side_of
from PIL import Image
from rows import Row, Rows
from sides.inputs import Work
from turns import Side, compare, difference

ROOT = pathlib.Path(__file__).parents[1]
SIZE = (768, 640)
COUNT, WORKERS, STEPS = 128, (1, 2), 60
SMALL_COUNT, SMALL_WORKERS, SMALL_STEPS = 8, (2,), 3


def write_pictures(folder: pathlib.Path, count: int) -> None:
    """Smooth colours with some noise, so that files are about as large as those of photographs."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
        noisy = smooth + rng.normal(0, 8, smooth.shape)
        name = f"{i:04}.{'png' if i % 2 else 'jpg'}"
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / name, quality=90)
        lines.append(json.dumps({"file_name": name, "text": "colours"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def row(workers: int, count: int, ours: Side, theirs: Side) -> Row:
    """A row of the table."""
    return {
        "work": f"pictures, {workers} worker{'s' if workers > 1 else ''}",
        "flax_sd, pictures/s": [count / seconds for seconds in ours.seconds],
        "torch, pictures/s": [count / seconds for seconds in theirs.seconds],
        "ratio of time": statistics.median(ours.seconds) / statistics.median(theirs.seconds),
        "largest difference": difference(ours, theirs),
    }


def training(model: pathlib.Path, pictures: pathlib.Path, steps: int) -> Row:
    """The last line of a short run's metrics; its rates are over the last ten steps."""
    with tempfile.TemporaryDirectory() as scratch:
        config, output = pathlib.Path(scratch) / "config.yaml", pathlib.Path(scratch) / "run"
        given = {
            "model": {"path": str(model)},
            "data": {"path": str(pictures), "resolution": side_of(model)},
            "train": {"steps": steps},
            "log": {"every": 1},
            "output": str(output),
        }
        config.write_text(json.dumps(given))  # YAML reads JSON
        command = [sys.executable, "train.py", str(config)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "work": f"training on them, {steps} steps",
        "pictures/s": last["images_per_second"],
        "share of the time waited for data": last["wait_share"],
    }


def main() -> None:
    """Writes the pictures, compares and trains."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    parser.add_argument("--model", type=pathlib.Path, default=SMALL, help="to train on them")
    options = parser.parse_args()
    count, repeats = (SMALL_COUNT, 1) if options.small else (COUNT, options.repeats)
    rows = Rows()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_pictures(folder, count)
        for workers in SMALL_WORKERS if options.small else WORKERS:
            work = Work(folder, workers)
            sides = compare("pictures", work, work, repeats)
            rows.add(row(workers, count, *sides))
        rows.add(training(options.model.resolve(), folder, SMALL_STEPS if options.small else STEPS))
    if options.save:
        rows.save("data")


if __name__ == "__main__":
    main()
