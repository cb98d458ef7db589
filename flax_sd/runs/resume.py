"""The run's config.yaml: written at the start, and held against the config of every later start."""

from typing import Any

import jax
import yaml

from flax_sd import config_file, sharding
from flax_sd.config import Config, to_dict
from flax_sd.errors import UserError
from flax_sd.runs.check import PAGE, QUARANTINE
from flax_sd.runs.outputs import write_aside
from flax_sd.runs.run_config import FILE

BEFORE_RUN = {PAGE, QUARANTINE}  # which `flax-sd check-data` leaves there
# What may differ on resume, so that a run can be extended or watched, its folder moved, and a step
# passed that stopped it.
FREE = ("train.steps", "train.epochs", "checkpoint.", "sample.", "output", "profile")
FREE += ("validation.", "train.on_nonfinite", "train.max_skipped")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under dotted names."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(old: Config, new: Config) -> list[str]:
    """The options that differ and may not, one line each."""
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    return [
        f"{name} is {a.get(name)!r} in the run and {b.get(name)!r} now"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name) and not name.startswith(FREE)
    ]


def check(config: Config) -> None:
    """Sees that the output folder is new, or that the run in it is this one.

    Every process calls it together: all go on or all end.

    Raises:
      UserError: the folder holds something else, or options differ that may not; all are named.
    """
    problem = None
    try:
        _check(config)
    except UserError as error:
        problem = error
    if sharding.any_process(problem is not None):
        raise problem or UserError("another process found a problem with the output folder")


def _check(config: Config) -> None:
    folder, path = config.output, config.output / FILE
    if path.exists():
        problems = differences(config_file.load(path), config)
        if problems:
            head = f"{path} is of a run with other options; take those or another --output:"
            raise UserError(config_file.listed(head, problems))
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file; name a new folder, or a run's")
    elif folder.exists():
        # What begins with a dot may be our own config, half written when the process was killed.
        names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        foreign = sorted(names - BEFORE_RUN)
        if foreign:
            raise UserError(
                f"output {folder} holds {foreign[0]} and no run (no {FILE}); "
                "name a new folder, or a run's"
            )


def write(config: Config) -> None:
    """Writes the resolved config into the output folder, which is made.

    Raises:
      UserError: it cannot be written.
    """
    path = config.output / FILE
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    if jax.process_index() == 0 and not (path.exists() and path.read_text("utf-8") == text):
        write_aside(path, text)
