"""Faults of files: damaged checkpoints, full disks, images that are moved away."""

import contextlib
import hashlib
import json
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.common.rows import Row
from benchmarks.faults.runs import BUNDLED, EVERY, STEPS, Bench, differing, result
from flax_sd.training.checkpoints import Checkpoints

DISK = 48  # MiB of the small file system


def damage(bench: Bench) -> Iterator[Row]:
    """Bytes of the newest checkpoint flipped, and files of it cut short."""
    good = bench.folder / "whole" / "checkpoints"
    template, states = _template(good / str(STEPS)), {}
    older = bench.folder / "older"
    shutil.copytree(good, older)
    states[STEPS] = _newest(older, template)[1]
    shutil.rmtree(older / str(STEPS))
    states[STEPS - EVERY] = _newest(older, template)[1]
    paths = [p for p in (good / str(STEPS)).rglob("*") if p.is_file() and p.stat().st_size]
    for fault in ("a flipped bit", "a file cut short"):
        found, passed = 0, []
        for number in range(bench.times):
            folder = bench.folder / "damaged" / f"{fault}-{number}"
            shutil.copytree(good, folder)
            path = folder / bench.draw.choice(sorted(paths)).relative_to(good)
            content = bytearray(path.read_bytes())
            place = bench.draw.randrange(len(content))
            if fault == "a flipped bit":
                content[place] ^= 1 << bench.draw.randrange(8)
            else:
                del content[place:]
            path.write_bytes(content)
            step, state = _newest(folder, template)
            found += step < STEPS
            if any(not np.array_equal(state[name], states[step][name]) for name in state):
                passed.append(f"{path.name} at {place}")
        yield {
            "fault": f"{fault} in the newest checkpoint",
            "times": bench.times,
            "found, and the one before taken": found,
            "of no effect": bench.times - found - len(passed),
            "another state than was saved": ", ".join(passed) or "never",
        }


def _newest(folder: pathlib.Path, template: dict[str, Any]) -> tuple[int, dict[str, np.ndarray]]:
    """Step and leaves of what the run would go on from."""
    checkpoints = Checkpoints(folder, 1000)
    restored = checkpoints.restore_newest(template)
    checkpoints.close()
    assert restored is not None
    step, state = restored
    state["key"] = jax.random.key_data(state["key"])
    return step, {name: np.asarray(leaf) for name, leaf in state.items()}


def _template(checkpoint: pathlib.Path) -> dict[str, Any]:
    """Leaves without values, as the checkpoint lists them."""
    listed = json.loads((checkpoint / "leaves" / "metadata").read_text())["leaves"]
    key = jax.random.key(0).dtype
    return {
        name: jax.ShapeDtypeStruct(shape, key if name == "key" else kind)
        for name, (shape, kind, _) in listed.items()
    }


@contextlib.contextmanager
def small_disk(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system in memory."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(path)]
    subprocess.run(["mount", *options], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def full(bench: Bench) -> Iterator[Row]:
    """A disk that is full from a step on, but for a few bytes."""
    with small_disk(bench.folder / "disk") as disk:
        cache = bench.runs.cache / "flax_sd" / "encoded"
        filler, output = disk / "filler", disk / "run"
        shutil.rmtree(cache)
        (disk / "encoded").mkdir()
        cache.symlink_to(disk / "encoded")
        named: dict[str, list[str]] = {}
        for _ in range(bench.times):
            shutil.rmtree(output, ignore_errors=True)
            shutil.rmtree(disk / "encoded")
            (disk / "encoded").mkdir()
            after = bench.draw.choice(["loaded:", "encoded:", "compiled:"])
            run = bench.runs.start(output)
            run.says(after)
            free = bench.draw.choice([0, 4096, 20_000, 100_000])
            _fill(filler, shutil.disk_usage(disk).free - free)
            status, error = run.status(), run.error()
            filler.unlink()
            what = _kind(error) if status else "it fitted"
            good = status in (0, 2) and "\n" not in error and (not status or "No space" in error)
            named.setdefault(what, []).append(
                bench.same(output) if good else f"status {status}: {run.log}"
            )
        cache.unlink()
    for what, answers in sorted(named.items()):
        bad = [answer for answer in answers if answer != "yes"]
        yield {
            "fault": "full disk",
            "named": what,
            "times": len(answers),
            "the same bytes once there is room": "; ".join(bad) or "yes",
        }


def _fill(path: pathlib.Path, size: int) -> None:
    with contextlib.suppress(OSError), path.open("wb") as file:
        for _ in range(max(size, 0) // 4096):
            file.write(b"\0" * 4096)


def _kind(error: str) -> str:
    """What it names, alike for every step and key."""
    places = {
        "/encoded/": "a file of the cache",
        "/checkpoints": "the checkpoints",
        "/loras/": "loras/step-…",
    }
    path = error.split(": ")[0].split(" could not")[0]
    return next((name for part, name in places.items() if part in path), pathlib.Path(path).name)


def _order(image: pathlib.Path) -> bytes:
    """That in which data.max_images chooses."""
    return hashlib.sha256(image.name.encode()).digest()


def vanished(bench: Bench) -> Iterator[Row]:
    """The folder of the images, and one image, moved away while the run reads from it."""
    flags = ["--data.no_encode_once"]
    bench.runs.finish(bench.folder / "live", *flags)
    wanted = result(bench.folder / "live")
    for what in ("the folder of the pictures", "one picture"):
        data = bench.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(BUNDLED / "style", data)
        output = bench.folder / f"vanished-{what[:3]}"
        more = [*flags, "--data.path", data]
        run = bench.runs.start(output, *more)
        run.says("compiled:")
        gone = data if what.startswith("the") else min(data.glob("*.png"), key=_order)
        gone.rename(bench.folder / "away")
        status, error = run.status(), run.error()
        (bench.folder / "away").rename(gone)
        bench.runs.finish(output, *more)
        yield {
            "fault": f"{what} moved away",
            "status": status,
            "said": error.replace(str(bench.folder), ""),
            "the same bytes once it is back": ", ".join(differing(wanted, result(output))) or "yes",
        }
