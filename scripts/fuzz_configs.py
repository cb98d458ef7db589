"""Mutates configs and safetensors headers: each must be read, or refused with a sentence.

    python scripts/fuzz_configs.py --count 10000 --seed 0
    python scripts/fuzz_configs.py --count 10000 FOLDER    # the configs of these models

Types, nulls, absurd numbers, NaN, deep nesting, unknown keys, broken text. Whatever is raised but
UserError is a fault, and so is a case that takes longer than `SLOW` seconds.
"""

import argparse
import collections
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_sd import samplers
from flax_sd.diffusion import diffusers_corrections
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights import safetensors
from flax_sd.weights.hub import BUNDLED
from flax_sd.weights.model_files import ModelFiles

SLOW = 5.0  # seconds
FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "vae/config.json",
)
ABSURD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**30, -(10**30), 0.5, 1.0, 1e-300, 1e300),
    *(float("nan"), float("inf"), "", "silu", "null", "\ud800", "é" * 300, [], {}, [None], [[]]),
    *([1] * 50, ["x", 1, None], {"a": {"b": []}}, "CrossAttnDownBlock2D", "1", [0.5, -2]),
)


class Fault(NamedTuple):
    """A case that was neither read nor refused in time."""

    number: int
    file: str
    what: str
    text: str


class Outcome(NamedTuple):
    """Cases by file and by what became of them, and the faults."""

    counts: collections.Counter[tuple[str, str]]
    faults: list[Fault]
    slowest: float


def mutated(rng: random.Random, value: Any) -> Any:
    """The value with one part of it, or several, made another."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {f"unknown_{rng.randrange(99)}": rng.choice(ABSURD)}
            case 2:
                return value | {key: [value[key]] * rng.choice((1, 2, 4))}
            case 3:
                return value | {key: _nested(value[key], rng.choice((3, 45, 60, 400)))}
            case _:
                return value | {key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        i = rng.randrange(len(value))
        return [*value[:i], *rng.choice(([], [_changed(rng, value[i])])), *value[i + 1 :]]
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice((-value, value * 1000, value + 1, value // 3, 10**400, str(value)))
    return rng.choice(ABSURD)


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def broken(rng: random.Random, data: bytes) -> bytes:
    """The bytes, cut, with a part doubled, or with some of them others."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(5):
        case 0:
            return data[:at]
        case 1:
            return (
                data[:at] + bytes(rng.randrange(256) for _ in range(rng.choice((1, 8)))) + data[at:]
            )
        case 2:
            return data[:at] + data[at + rng.randrange(1, 40) :]
        case 3:
            return data[:at] + b"[" * rng.choice((10, 100_000)) + data[at:]
        case _:
            return data[:at] + b"9" * rng.choice((20, 5000)) + data[at:]


def _text(rng: random.Random, value: Any) -> bytes:
    """Mutated JSON, or, one time in five, broken text."""
    if rng.random() < 0.2:
        return broken(rng, json.dumps(value).encode())
    return json.dumps(mutated(rng, value)).encode()


def read(folder: pathlib.Path, file: str, *, trace: bool) -> None:
    """Reads what the file says, as a run does.

    Args:
      trace: builds the network too, without its weights.

    Raises:
      UserError: it is refused.
    """
    part, files = file.partition("/")[0], ModelFiles(folder)
    if part == "model_index.json":
        files.check_kind()
        assert files.configs and files.scheduler_config
    elif part == "scheduler":
        raw = files.scheduler_config
        NoiseSchedule.from_config(raw)
        samplers.from_config(diffusers_corrections.scheduler_in_use(raw), 4)
        samplers.from_config(samplers.config_of("euler", raw), 4)
    elif part == "tokenizer":
        Tokenizer.load(folder / part)(["a cat"])
    else:
        files.network_config(part)
        if part == "unet":
            diffusers_corrections.sample_size(files.config(part))
        if trace:
            files.abstract(part)


def read_tensors(path: pathlib.Path) -> None:
    """Opens a safetensors file and looks at every tensor.

    Raises:
      UserError: it is refused.
    """
    file = safetensors.TensorFile(path)
    for key in file:
        np.asarray(file[key]).sum()


def tensor_file(rng: random.Random) -> bytes:
    """A small safetensors file whose header, or bytes, are others."""
    tensors = {
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "__metadata__": {"format": "pt"},
    }
    header = _text(rng, tensors) if rng.random() < 0.7 else json.dumps(tensors).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(32)
    return data if rng.random() < 0.7 else broken(rng, data)


def run(count: int, seed: int, folders: Sequence[pathlib.Path], *, trace_every: int) -> Outcome:
    """Tries `count` cases, a pure function of the seed.

    Args:
      folders: models whose configs are mutated.
      trace_every: of so many cases one has its network built; 0 builds none.
    """
    outcome = Outcome(collections.Counter(), [], 0.0)
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        models = [_copied(folder, root / str(i)) for i, folder in enumerate(folders)]
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            trace = trace_every > 0 and number % trace_every == 0
            if rng.random() < 0.25:
                path = root / "x.safetensors"
                path.write_bytes(data := tensor_file(rng))
                done = _try(lambda path=path: read_tensors(path))
                file = "safetensors"
            else:
                folder, files = rng.choice(models)
                file = rng.choice(files)
                original = (folder / file).read_bytes()
                (folder / file).write_bytes(data := _text(rng, json.loads(original)))
                done = _try(lambda a=folder, b=file, c=trace: read(a, b, trace=c))
                (folder / file).write_bytes(original)
            what, seconds = done
            outcome.counts[file, what if what in ("read", "refused") else "fault"] += 1
            outcome = outcome._replace(slowest=max(outcome.slowest, seconds))
            if what not in ("read", "refused"):
                outcome.faults.append(Fault(number, file, what, repr(data[:300])))
            elif seconds > SLOW:
                outcome.faults.append(Fault(number, file, f"{seconds:.1f} s", repr(data[:300])))
    return outcome


def _copied(folder: pathlib.Path, to: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """A model's small files in a folder that may be written to, and which are to be mutated."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors", "*.tsv"))
    if (to / "tokenizer").is_dir():  # with a few words alone: the real ones take a second to read
        words = ["a", "b", "a</w>", "b</w>", "ab</w>", "!", "<|startoftext|>", "<|endoftext|>"]
        vocabulary = {word: i for i, word in enumerate(words)}
        (to / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
        (to / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return to, [file for file in FILES if (to / file).is_file()]


def _try(call: Callable[[], None]) -> tuple[str, float]:
    """What became of a call: "read", "refused" or the error, and the seconds."""
    started = time.perf_counter()
    try:
        with np.errstate(all="ignore"):  # betas of 0 divide by it, in diffusers too
            call()
        what = "read"
    except UserError:
        what = "refused"
    except Exception:
        what = "".join(traceback.format_exc().splitlines(keepends=True)[-8:])
    return what, time.perf_counter() - started


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if there are faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--trace-every", type=int, default=100, help="cases a network that is built"
    )
    options = parser.parse_args(args)
    folders = options.folders or [BUNDLED / "base"]
    outcome = run(options.count, options.seed, folders, trace_every=options.trace_every)
    for (file, what), count in sorted(outcome.counts.items()):
        print(f"{file:36} {what:8} {count}")
    print(f"slowest {outcome.slowest:.2f} s, {len(outcome.faults)} faults")
    for fault in outcome.faults[:20]:
        print(f"\ncase {fault.number}, {fault.file}:\n{fault.what}\n{fault.text}")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
