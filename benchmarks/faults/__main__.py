"""Hurts tiny training runs in every way that real ones are hurt, and compares what they end in.

python -m benchmarks.faults                      # all of them, on the bundled model
python -m benchmarks.faults --only kills full    # some
python -m benchmarks.faults --model DIR --mode full --times 20 --seed 0

Each run is disturbed, started again by the same command, and has to end in the bytes of one that
nobody disturbed: its results, the LoRA of each save, and the numbers of metrics.jsonl.
Full disks need root, for a small file system in memory.
"""

import argparse
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks.common.rows import Row, Rows
from benchmarks.faults.files import damage, full, vanished
from benchmarks.faults.runs import EVERY, SAMPLED, SAMPLES, SHARDS, STEPS, Bench, Running, inside

Moment = Callable[[Running, pathlib.Path], bool]  # of a run in a folder


def kills(bench: Bench) -> Iterator[Row]:
    """SIGKILL at drawn moments, and where files are being written, in one run after another."""
    output = bench.folder / "killed"
    checkpoints, cache = output / "checkpoints", bench.runs.cache / "flax_sd" / "encoded"

    def anywhere() -> Callable[[], bool]:
        end = time.monotonic() + bench.draw.uniform(0, bench.seconds)
        return lambda: time.monotonic() > end

    def in_checkpoint() -> Callable[[], bool]:
        known = set(inside(checkpoints, "*"))
        return lambda: bool(set(inside(checkpoints, "*")) - known)

    def in_cache() -> Callable[[], bool]:
        shutil.rmtree(cache, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)
        wanted = bench.draw.randrange(1, 16)
        return lambda: sum(1 for _ in inside(cache, "*/*")) >= wanted

    def in_results() -> Callable[[], bool]:
        known = set(inside(output, bench.written))
        return lambda: bool(set(inside(output, bench.written)) - known)

    def in_ledger() -> Callable[[], bool]:
        shutil.rmtree(output, ignore_errors=True)
        wanted = bench.draw.randrange(0, SHARDS)  # of the shards that are opened
        return lambda: _text(output / "shards.jsonl").count('"hash"') > wanted

    places = {
        "at a drawn moment": anywhere,
        "while a checkpoint is written": in_checkpoint,
        "while results are written": in_results,
    }
    if bench.stream:
        places["when a shard is taken down"] = in_ledger
    else:
        places["while images are encoded"] = in_cache
    for place, trigger in places.items():
        torn, done = 0, 0
        for _ in range(bench.times // len(places)):
            seen = trigger()
            run = bench.runs.start(output)
            run.until(seen)
            time.sleep(bench.draw.choice([0, 0, 0.001, 0.005, 0.02]))
            run.kill()
            done += 1
            torn += bool(
                [*inside(checkpoints, "*tmp*"), *inside(cache, "*/.*"), *inside(output, "**/.*.*")]
            )
            if (output / "finished.json").exists():  # the kill came after the end
                shutil.rmtree(output)
        yield {
            "fault": f"SIGKILL {place}",
            "times": done,
            "half a file was left": torn,
            "the same bytes": bench.same(output),
        }


def stops(bench: Bench) -> Iterator[Row]:
    """SIGTERM in every part of a run."""
    runs, cache = bench.runs, bench.runs.cache / "flax_sd" / "encoded"

    def said(words: str) -> Moment:
        return lambda run, output: words in run.text()

    def logged(step: int) -> Moment:
        """The metrics of a step are read when the next one is under way."""
        return lambda run, output: f'"step": {step},' in _text(output / "metrics.jsonl")

    def there(name: str) -> Moment:
        return lambda run, output: (output / name).exists()

    parts = {
        "while the model is loaded": said("found:"),
        "while images are encoded": said("loaded:"),
        "while the step is compiled": there("samples/step-000000.png"),
        "between steps": logged(EVERY + 1),
        "while samples are drawn": logged(SAMPLED - 1),
        "while the results are written": there(f"loras/step-{STEPS:06d}_peft.safetensors"),
    }
    for number, (part, moment) in enumerate(parts.items()):
        output = bench.folder / f"told-{number}"
        if "encoded" in part:
            shutil.rmtree(cache)
        if "compiled" in part:
            shutil.rmtree(runs.folder / "compiled")
        run = runs.start(output, *SAMPLES)
        if not run.until(lambda run=run, output=output, moment=moment: moment(run, output)):
            sys.exit(f"the run ended before: {run.log}")
        time.sleep(0.3 if "compiled" in part else 0)
        seconds = run.signal(signal.SIGTERM)
        lines = [line for line in run.text().splitlines() if "SIGTERM" in line]
        yield {
            "fault": f"SIGTERM {part}",
            "s to its end": seconds,
            "status": run.status(),
            "said": lines[-1].strip() if lines else "nothing",
            "the same bytes": bench.same(output, *SAMPLES),
        }


def _text(path: pathlib.Path) -> str:
    return path.read_text() if path.exists() else ""


FAULTS = {"kills": kills, "damage": damage, "stops": stops, "full": full, "vanished": vanished}


def main() -> None:
    """Hurts runs, fault by fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled:base", help="a diffusers folder")
    parser.add_argument("--mode", choices=["lora", "full"], default="lora", help="train.mode")
    parser.add_argument("--stream", action="store_true", help="images from shards (kills alone)")
    parser.add_argument("--times", type=int, default=20, help="of each fault that is drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--save", action="store_true", help="keep the rows for report.py")
    options = parser.parse_args()
    if options.stream and options.only != ["kills"]:
        parser.error("--stream wants --only kills")
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(pathlib.Path(folder), options)
        print(f"an undisturbed run takes {bench.seconds:.1f} s\n")
        for name in options.only:
            for row in FAULTS[name](bench):
                rows.add(row)
    if options.save:
        rows.save("faults")


if __name__ == "__main__":
    main()
