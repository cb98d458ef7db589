"""Training runs in processes of their own, to be watched, hurt and run again."""

import argparse
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.common.options import ROOT

BUNDLED = ROOT / "flax_sd" / "bundled"
STEPS, EVERY = 24, 3
FLAGS = ["--train.steps", STEPS, "--checkpoint.every", EVERY, "--log.every", 1]
FLAGS += ["--train.batch_size", 2, "--data.resolution", 32, "--data.center_crop", True]
FLAGS += ["--lora.rank", 2, "--optim.learning_rate", 1e-3]
SHARDS, EACH = 6, 4  # of a stream, and images in each
SAMPLED = 8
SAMPLES = ["--sample.every", SAMPLED, "--sample.steps", 1, "--sample.prompts", "a"]

LOOK = 0.0005  # seconds between two looks at a folder
RESULTS = ("*.safetensors", "loras/*", "samples/*", "model/**/*")
NUMBERS = ("step", "loss", "grad_norm", "lr")  # of metrics.jsonl; a clock decides the others
PRELOAD = ["flax_sd.cli", "flax_sd.config.file", "flax_sd.system.compiler", "flax_sd.training.run"]


class Running:
    """A run on its way; it ends with its process."""

    def __init__(self, process: Any, log: pathlib.Path):
        self.process, self.log, self.began = process, log, time.monotonic()

    def until(self, seen: Callable[[], Any], limit: float = 600) -> bool:
        """Waits until something is seen; False if the run ends before."""
        while not seen():
            if self.process.exitcode is not None:
                return False
            if time.monotonic() - self.began > limit:
                sys.exit(f"nothing happened in {limit:.0f} s: {self.log}")
            time.sleep(LOOK)
        return True

    def says(self, words: str) -> bool:
        """Waits until its output has these words; False if it ends before."""
        return self.until(lambda: words in self.text())

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.join()

    def signal(self, number: signal.Signals) -> float:
        """Sends a signal; returns the seconds that the run takes to end."""
        start = time.monotonic()
        os.kill(self.process.pid, number)
        self.process.join()
        return time.monotonic() - start

    def status(self) -> int:
        """Waits for the end."""
        self.process.join()
        return self.process.exitcode

    def error(self) -> str:
        """What it said at its end: one line if all is well, more if a trace was printed."""
        return self.text().rpartition("\nerror: ")[2].strip()


class Runs:
    """Starts runs in processes that have imported everything, which saves most of their time."""

    def __init__(self, folder: pathlib.Path, flags: Sequence[object]):
        """Every run has these flags; the caches lie in the folder."""
        self.folder, self.flags, self._count = folder, [str(flag) for flag in flags], 0
        self.cache = folder / "cache"
        os.environ |= {
            "XDG_CACHE_HOME": str(self.cache),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def start(self, output: pathlib.Path, *flags: object) -> Running:
        """Starts a run in a folder."""
        self._count += 1
        log = self.folder / f"log-{self._count:03d}.txt"
        arguments = [*self.flags, "--output", output, *flags]
        process = self._context.Process(target=_train, args=(list(map(str, arguments)), str(log)))
        process.start()
        return Running(process, log)

    def finish(self, output: pathlib.Path, *flags: object) -> Running:
        """Starts a run and sees that it ends well."""
        run = self.start(output, *flags)
        if run.status():
            sys.exit(f"a run ended with status {run.process.exitcode}: {run.log}\n{run.text()}")
        return run


def _train(arguments: list[str], log: str) -> None:
    """The command, in the new process."""
    from flax_sd import cli

    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(cli.train(arguments))


def result(output: pathlib.Path) -> dict[str, Any]:
    """All that must be the same: files byte for byte, and what metrics.jsonl says but for time."""
    files = {path for pattern in RESULTS for path in output.glob(pattern) if path.is_file()}
    files -= {output / f"{output.name}.safetensors"}  # lora.safetensors with that name inside
    found: dict[str, Any] = {str(p.relative_to(output)): p.read_bytes() for p in files}
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    found["metrics.jsonl"] = [{k: row[k] for k in NUMBERS} for row in lines]
    return found


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The names of what is not the same."""
    return sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))


def write_shards(images: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Writes some captioned images of a folder as archives of webdataset's form."""
    folder.mkdir()
    rows = map(json.loads, (images / "metadata.jsonl").read_text("utf-8").splitlines())
    for number in range(SHARDS):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for row in itertools.islice(rows, EACH):
                archive.add(images / row["file_name"], row["file_name"])
                caption = tarfile.TarInfo(str(pathlib.Path(row["file_name"]).with_suffix(".txt")))
                caption.size = len(text := row["text"].encode())
                archive.addfile(caption, io.BytesIO(text))
    return folder


def inside(folder: pathlib.Path, pattern: str) -> Iterator[pathlib.Path]:
    """Files that match; none while the folder is not there."""
    return folder.glob(pattern) if folder.is_dir() else iter(())


class Bench:
    """An undisturbed run, and others to compare with it.

    Attributes:
      written: a pattern of the results that are seen while they come into being.
    """

    def __init__(self, folder: pathlib.Path, options: argparse.Namespace):
        data = BUNDLED / "style"
        if options.stream:
            data = write_shards(data, folder / "shards")
        few = ["--data.stream", True] if options.stream else ["--data.max_images", 8]
        flags = [ROOT / "configs" / "sd15_lora.yaml", "--model.path", options.model]
        flags += ["--train.mode", options.mode]
        self.written = "loras/*" if options.mode == "lora" else "*model*"
        self.runs = Runs(folder, [*flags, "--data.path", data, *few, *FLAGS])
        self.stream = options.stream
        self.folder, self.times, self.draw = folder, options.times, random.Random(options.seed)
        self.runs.finish(folder / "first")  # compiles
        start = time.monotonic()
        self.runs.finish(folder / "whole")
        self.seconds = time.monotonic() - start
        self.whole = result(folder / "whole")

    def same(self, output: pathlib.Path, *flags: object) -> str:
        """Runs the command to its end; "yes", or what is not as in the undisturbed run."""
        run = self.runs.finish(output, *flags)
        found = result(output)
        # A run that was told to stop has saved at that step too.
        names = differing(self.whole, {name: found.get(name) for name in self.whole})
        if "Traceback" in run.text():
            names.append(f"a trace in {run.log}")
        return ", ".join(names) or "yes"
