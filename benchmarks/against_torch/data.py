"""Pictures a second from files to batches, beside torch's way; and how long a run waits for them.

python -m benchmarks.against_torch.data
python -m benchmarks.against_torch.data --small

Images of 768 x 640 pixels, half of them JPEG and half PNG, are written to a temporary folder and
cut to 512 x 512. Ours decodes in threads, torch's DataLoader in processes; they take turns. Then
the moments of as many latents are read from the cache; and short training runs on the bundled model
read the same folder at the model's own size, encoding at each step and once.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

from benchmarks.common.options import ROOT, SMALL, add_common, side_of
from benchmarks.common.rows import Row, Rows
from benchmarks.common.turns import Side, compare, difference
from flax_sd.commands.bench.work import Work

SIZE = (768, 640)
COUNT, WORKERS = 128, (1, 2)
SMALL_COUNT, SMALL_WORKERS = 8, (2,)


def write_images(folder: pathlib.Path, count: int) -> None:
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
        "work": f"images, {workers} worker{'s' if workers > 1 else ''}",
        "flax_sd, images/s": [count / seconds for seconds in ours.seconds],
        "torch, images/s": [count / seconds for seconds in theirs.seconds],
        "ratio of time": statistics.median(ours.seconds) / statistics.median(theirs.seconds),
        "largest difference": difference(ours, theirs),
    }


def cached(work: Work, count: int, repeats: int) -> Row:
    """What the cache gives; torch's side has none."""
    side = Side("ours", "moments", work)
    for _ in range(repeats):
        side.turn()
    side.close()
    return {
        "work": f"moments from the cache, {work.size} worker{'s' if work.size > 1 else ''}",
        "flax_sd, images/s": [count / seconds for seconds in side.seconds],
    }


def training(model: pathlib.Path, images: pathlib.Path, steps: int, once: bool) -> Row:
    """The last line of a short run's metrics; its rates are over the last ten steps."""
    with tempfile.TemporaryDirectory() as scratch:
        config, output = pathlib.Path(scratch) / "config.yaml", pathlib.Path(scratch) / "run"
        given = {
            "model": {"path": str(model)},
            "data": {"path": str(images), "resolution": side_of(model), "center_crop": once},
            "train": {"steps": steps},
            "log": {"every": 1},
            "output": str(output),
        }
        config.write_text(json.dumps(given))  # YAML reads JSON
        command = [sys.executable, "train.py", str(config)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "work": f"training on them, encoded {'once' if once else 'at each step'}",
        "images/s": last["images_per_second"],
        "share of the time waited for data": last["wait_share"],
    }


def main() -> None:
    """Writes the images, compares and trains."""
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
        write_images(folder, count)
        for workers in SMALL_WORKERS if options.small else WORKERS:
            work = Work(folder, workers)
            sides = compare("images", work, work, repeats)
            rows.add(row(workers, count, *sides))
            rows.add(cached(work, count, repeats))
        for once in (False, True):
            rows.add(training(options.model.resolve(), folder, count, once))
    if options.save:
        rows.save("data")


if __name__ == "__main__":
    main()
