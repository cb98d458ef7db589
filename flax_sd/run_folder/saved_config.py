"""The run's config.yaml: written at the start, and compared with the config of later starts."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import yaml

from flax_sd.config import Config, file, to_dict
from flax_sd.config.section import MAY_DIFFER, OnResume, marks
from flax_sd.errors import UserError, listed
from flax_sd.files.atomic import write_atomically
from flax_sd.files.json_values import JsonObject
from flax_sd.run_folder import environment
from flax_sd.run_folder.layout import CHECKPOINTS_FOLDER, CONFIG, DATA_REPORT, QUARANTINE
from flax_sd.system import distributed, seeds

BEFORE_RUN = {DATA_REPORT, QUARANTINE}  # files of `flax-sd check-data`
MARKS = marks(Config, OnResume)
FOLDERS = "data.folders."


def settled(config: Config) -> Config:
    """Returns the config with a number for each seed of -1: the run's own, or a new one.

    Every process calls it together, and all get the same seeds.

    Raises:
      UserError: the run's config.yaml cannot be read.
    """
    if seeds.RANDOM not in (config.seed, config.sample.seed):
        return config
    path, drawn = config.output / CONFIG, seeds.random_seed()
    began = file.load(path) if path.is_file() else None
    seed, sample = config.seed, config.sample
    if seed == seeds.RANDOM:
        seed = began.seed if began else drawn
    if sample.seed == seeds.RANDOM:
        own = began.sample.seed if began else drawn
        sample = sample.model_copy(update={"seed": own})
    return config.model_copy(update={"seed": seed, "sample": sample})


def flatten(tree: JsonObject, prefix: str = "") -> JsonObject:
    """Returns nested options by dotted name."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(old: Config, new: Config) -> dict[str, str]:
    """Returns a sentence for each option that differs, without those that may.

    An option that is not set is equal to its default.
    """
    a, b = (_spelled_out(to_dict(config)) for config in (old, new))
    c, d = (_spelled_out(config.in_full()) for config in (old, new))
    return {
        name: f"{name} is {a.get(name)!r} in the run and {b.get(name)!r} now"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name) and c.get(name) != d.get(name) and _mark(name) != MAY_DIFFER
    }


def _mark(name: str) -> OnResume | None:
    """Returns the mark of an option, of its section, or of the mapping that it is in."""
    parts = name.split(".")
    starts = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
    return next((MARKS[start] for start in starts if start in MARKS), None)


def _spelled_out(options: JsonObject) -> JsonObject:
    """Returns options by dotted name, with absolute paths of files and folders that exist."""
    spelled = {}
    for name, value in flatten(options).items():
        if name.startswith(FOLDERS):
            name = FOLDERS + place(name.removeprefix(FOLDERS))
        spelled[name] = place(value) if _mark(name) else value
    return spelled


def place(value: Any) -> Any:
    """Returns the absolute path of a file or folder that exists, all else as it is."""
    there = isinstance(value, str) and value and pathlib.Path(value).exists()
    return str(pathlib.Path(value).resolve()) if there else value


def check(config: Config) -> list[str]:
    """Checks that the output folder is new, or has this run.

    Every process calls it together: all continue or all end.

    Returns:
      The options that now name another path, whose content must be the same.

    Raises:
      UserError: the folder holds something else, or options differ that may not; all are named.
    """
    problem, moved = None, []
    try:
        moved = _check(config)
    except UserError as error:
        problem = error
    if distributed.any_process(problem is not None):
        raise problem or UserError("another process found a problem with the output folder")
    return moved


def _check(config: Config) -> list[str]:
    folder, path = config.output, config.output / CONFIG
    if path.exists():
        began = file.load(path)
        others = differences(began, config)
        # If folders have other names, their repeats must be the same, one by one.
        same_repeats = [*began.data.folders.values()] == [*config.data.folders.values()]
        bound = [n for n in others if not _mark(n) or (n.startswith(FOLDERS) and not same_repeats)]
        _refuse(path, [others[name] for name in bound])
        return [name for name in others if name not in bound]
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file: name a new folder, or a run's")
    if folder.exists():
        # A name with a dot may be our own config, half written by a killed process.
        names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        foreign = sorted(names - BEFORE_RUN)
        if foreign:
            raise UserError(
                f"output {folder} holds {foreign[0]} and no run (no {CONFIG}): "
                "name a new folder, or a run's"
            )
    return []


def _refuse(path: pathlib.Path, problems: list[str]) -> None:
    if problems:
        head = f"{path} is of a run with other options; use those or another --output:"
        raise UserError(listed(head, problems))


def check_content(config: Config, moved: list[str], find: Callable[[], JsonObject]) -> None:
    """Checks that options that name another path have the content that the run began with.

    Before the first checkpoint the content may differ.

    Args:
      moved: as `check` returns it.
      find: -> the current environment, as environment.json has it.

    Raises:
      UserError: a content differs or is unknown; all are named.
    """
    checked = {name: mark.same for name in moved if (mark := _mark(name)) and mark.same}
    if not checked or not has_checkpoint(config.output):
        return
    recorded = environment.read(config.output)
    then, now = flatten(recorded[-1] if recorded else {}), flatten(find())
    path, old = config.output / CONFIG, file.load(config.output / CONFIG)
    said = differences(old, config)
    wrong = [
        n for n, fact in checked.items() if then.get(fact) is None or then[fact] != now.get(fact)
    ]
    _refuse(path, [said[name] for name in wrong])


def has_checkpoint(folder: pathlib.Path) -> bool:
    """Tells if a run has saved a step."""
    return any(path.name.isdigit() for path in folder.glob(f"{CHECKPOINTS_FOLDER}/*"))


def write(config: Config) -> None:
    """Writes the resolved config into the output folder, which is created.

    Raises:
      UserError: it cannot be written.
    """
    path = config.output / CONFIG
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    if jax.process_index() == 0 and not (path.exists() and path.read_text("utf-8") == text):
        write_atomically(path, text)


def config_of(path: pathlib.Path) -> Config | None:
    """Returns the config of the run at this folder, or around this file; None if there is none.

    Raises:
      UserError: it exists and cannot be read.
    """
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
    for folder in folders:
        if (folder / CONFIG).is_file():
            return file.load(folder / CONFIG)
    return None
