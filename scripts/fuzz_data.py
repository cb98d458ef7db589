"""Reads made folders, archives and tables with every fault that a user's may have.

    python scripts/fuzz_data.py --count 10000 --seed 0

Each made source has entries that it knows of. Reading it must end in time, raise nothing but
UserError, and give a word for each entry: it is used, left out by name, or named as no part of the
set. What breaks this is printed with the number that makes the same source again (--first N).
"""

import argparse
import collections
import logging
import pathlib
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings

import datasets
from datasets import config as datasets_config
from made_sources import KINDS, Made, make

from flax_sd.config import DataConfig
from flax_sd.data import Images, find_all, open_images, open_shard
from flax_sd.data.check import check
from flax_sd.data.summary import summary
from flax_sd.errors import UserError

LAST = pathlib.Path(tempfile.gettempdir()) / "fuzz_data.txt"
SECONDS = 5.0  # that one source may take
MANY = re.compile(r"^(.*) and (\d+) more$", re.S)
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def main() -> int:
    """Reads the sources; 1 if any was read wrongly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    datasets.disable_progress_bars()
    counts = collections.Counter[str]()
    slowest = 0.0
    for number in range(flags.first, flags.first + flags.count):
        kind = flags.kinds[number % len(flags.kinds)]
        LAST.write_text(f"{kind} --seed {flags.seed} --first {number}")  # where a process may die
        started = time.monotonic()
        outcome, faults = read(kind, f"{flags.seed}/{number}")
        slowest = max(slowest, time.monotonic() - started)
        counts[f"{kind}: {outcome}"] += 1
        for fault in faults:
            counts["FAULTS"] += 1
            print(f"{kind} --seed {flags.seed} --first {number}: {fault}", flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    print(f"slowest: {slowest:.1f} s")
    return 1 if counts["FAULTS"] else 0


def read(kind: str, seed: str) -> tuple[str, list[str]]:
    """Makes a source and reads it: "read" or "refused", and what is wrong with how."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    datasets_config.HF_DATASETS_CACHE = folder / "cache"
    try:
        made = make(kind, seed, folder)
        started = time.monotonic()
        outcome, faults = _read(made)
        if (taken := time.monotonic() - started) > SECONDS:
            faults.append(f"took {taken:.1f} s")
        return outcome, faults
    finally:
        shutil.rmtree(folder)


def _read(made: Made) -> tuple[str, list[str]]:
    try:
        images = _open(made)
        said = summary(images, check(images, lambda caption: caption[40:]))
    except UserError as error:
        return "refused", _unseen(str(error))
    except Exception:
        return "refused", [traceback.format_exc()]
    return "read", [*_unseen(said), *absent(made, images)]


def _open(made: Made) -> Images:
    cfg = DataConfig(path=str(made.path), resolution=16, stream=made.stream)
    if not made.stream:
        return open_images(cfg, captioned=made.captioned)
    shards, unused = find_all(str(made.path))
    images = open_shard(shards[0], cfg, captioned=made.captioned)
    images.unused.extend(unused)
    return images


def _unseen(text: str) -> list[str]:
    found = UNSEEN.search(text)
    return (
        [f"prints {found[0]!r} in {text[max(0, found.start() - 60) : found.end()]!r}"]
        if found
        else []
    )


def absent(made: Made, images: Images) -> list[str]:
    """Returns what is wrong with the account of all entries."""
    named = [*images.bad, *images.unused]
    faults = [f"no reason for {name}" for name, reason in named if not reason]
    spoken = [*images.names, *(name for name, _ in named)]
    counted = [match for name in spoken if (match := MANY.match(name))]
    whole = {str(pathlib.PurePosixPath(name)) for name in spoken} | {match[1] for match in counted}
    whole |= {name.replace("\\", "/") for name in whole}  # of a metadata file of Windows
    missing = [entry for entry in made.entries if not whole.intersection(_above(entry))]
    refused = any(name.startswith(str(made.path)) for name, _ in images.bad)  # as a whole
    if made.rows is not None and not refused and len(images) + len(images.bad) != made.rows:
        faults.append(f"{made.rows} rows, {len(images)} used, {len(images.bad)} left out")
    if len(missing) > sum(int(match[2]) for match in counted):
        faults.append(f"no word of {missing}; said: {spoken}")
    return faults


def _above(entry: str) -> list[str]:
    """A name, and those of the folders that it lies in: a word for one of them is enough."""
    path = pathlib.PurePosixPath(entry)
    return [entry, entry.replace("\\", "/"), *map(str, path.parents)]


if __name__ == "__main__":
    sys.exit(main())
