"""Repeats a run in another folder, and compares the bytes of the results."""

import pathlib
from collections.abc import Iterator

import numpy as np

from flax_sd.config import Config
from flax_sd.config import file as config_file
from flax_sd.config.file import Given
from flax_sd.errors import UserError
from flax_sd.run_folder import environment
from flax_sd.run_folder.layout import FINISHED, LORA_FILE, MODEL_FOLDER, PEFT_FILE
from flax_sd.run_folder.saved_config import flatten
from flax_sd.system.exit_status import DONE, FAILED
from flax_sd.system.progress import Progress
from flax_sd.weights.safetensors import TensorFile

# The LoRA of each save comes first: the earliest difference tells when the runs diverged.
RESULTS = ("loras/*.safetensors", LORA_FILE, PEFT_FILE, f"{MODEL_FOLDER}/**/*")


def again(path: pathlib.Path, given: Given) -> Config:
    """Returns the config of a finished run, for another folder.

    Args:
      path: its config.yaml.
      given: what else is on the command line.

    Raises:
      UserError: the run is not finished, is to be repeated into its own folder, or with other
        options.
    """
    if others := sorted(given.flags - {"output"}):
        raise UserError(
            f"--repeat trains the run with its own options: leave out --{', --'.join(others)}"
        )
    old, config = path.parent, config_file.load(path)
    if not (old / FINISHED).is_file():
        raise UserError(f"{old} is not finished: run the command that began it again")
    output = old.absolute().with_name(f"{old.absolute().name}-repeated")
    if given.flags:
        output = given.config.output
    if output.resolve() == old.resolve():
        raise UserError(f"{old} is the run to repeat: choose another --output")
    return config.model_copy(update={"output": output})


def compare(old: pathlib.Path, new: pathlib.Path) -> int:
    """Compares the bytes of two runs' results; returns the exit status."""
    progress = Progress()
    for line in other_environment(old, new):
        progress.say(line)
    differences = list(first_difference(old, new))
    for line in differences or [f"the results of {new} and {old} are the same, byte for byte"]:
        progress.say(line)
    return FAILED if differences else DONE


def other_environment(old: pathlib.Path, new: pathlib.Path) -> list[str]:
    """Lists differences of the runs' environment.json: equal bytes need equal environments."""
    recorded = [environment.read(folder) for folder in (old, new)]
    if not all(recorded):
        return []
    a, b = (flatten({**entries[-1], "step": 0}) for entries in recorded)
    lines = [
        f"{name} was {a[name]} and is {b[name]}"
        for name in sorted(a.keys() & b.keys())
        if a[name] != b[name]
    ]
    if (count := len(recorded[0])) > 1:
        lines.insert(0, f"{old} was trained in {count} environments, one after another")
    return lines


def first_difference(old: pathlib.Path, new: pathlib.Path) -> Iterator[str]:
    """Yields the first file that differs, with its first tensor that differs, if any."""
    for pattern in RESULTS:
        names = {p.relative_to(f) for f in (old, new) for p in f.glob(pattern) if p.is_file()}
        for name in sorted(names):
            a, b = old / name, new / name
            if not (a.exists() and b.exists()):
                if pattern == RESULTS[0]:  # how often a run saves does not change what it learns
                    continue
                yield f"only {a if a.exists() else b} exists"
                return
            if a.read_bytes() != b.read_bytes():
                yield f"{b} differs from {a}{_first_tensor(a, b)}"
                return


def _first_tensor(a: pathlib.Path, b: pathlib.Path) -> str:
    if a.suffix != ".safetensors":
        return ""
    ours, theirs = TensorFile(a), TensorFile(b)
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in ours or key not in theirs:
            return f": only one of them has {key}"
        x, y = (np.asarray(file[key]).astype(np.float64) for file in (ours, theirs))
        if x.shape != y.shape:
            return f": {key} is {list(x.shape)} and {list(y.shape)}"
        if not np.array_equal(x, y, equal_nan=True):
            return f": {key} differs by {np.abs(x - y).max():.3g} of {np.abs(x).max():.3g}"
    return ": their tensors are the same, their headers are not"
