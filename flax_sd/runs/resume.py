"""The run's config.yaml: written at the start, and held against the config of every later start."""

import os
from typing import Any

import yaml

from flax_sd.config import Config, to_dict
from flax_sd.errors import UserError

FILE = "config.yaml"
# What may differ on resume, so that a run can be extended or watched more closely.
FREE = ("train.steps", "train.epochs", "checkpoint.", "sample.", "log.", "output", "data.workers")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under dotted names."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The options that differ and may not, one line each."""
    a, b = flatten(old), flatten(new)
    names = [n for n in sorted(a.keys() | b.keys()) if not n.startswith(FREE)]
    absent = "not there"
    return [
        f"{n}: {a.get(n, absent)!r} in the run, {b.get(n, absent)!r} now"
        for n in names
        if n not in a or n not in b or a[n] != b[n]
    ]


def check(config: Config) -> None:
    """Sees that the output folder is new, or that the run in it is this one.

    Raises:
      UserError: the folder holds something else, or options differ that may not; all are named.
    """
    folder = config.output
    path = folder / FILE
    if path.exists():
        old = yaml.safe_load(path.read_text(encoding="utf-8"))
        new = to_dict(config)
        problems = differences(old, new) if isinstance(old, dict) else ["it is not a config"]
        if problems:
            head = f"{path} is of another run; choose another --output, or the same options:"
            raise UserError("\n  ".join([head, *problems]))
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and holds no run (no {FILE}); choose another --output")


def write(config: Config) -> None:
    """Writes the resolved config into the output folder, which is made.

    Raises:
      UserError: it cannot be written.
    """
    path = config.output / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        aside.write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), "utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
