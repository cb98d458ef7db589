"""From a YAML file and flags to a Config; every mistake is named, with the nearest right name."""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import pydantic

from flax_sd.config import Config
from flax_sd.config.commands import Command
from flax_sd.config.flags import Options, checked, is_nothing, nothing, take
from flax_sd.config.former_names import current_name
from flax_sd.config.mistakes import no_such_option, sentence
from flax_sd.config.section import is_section, option_fields
from flax_sd.errors import UserError, listed
from flax_sd.files import strict_yaml
from flax_sd.files.json_values import JsonObject
from flax_sd.files.paths import user_path
from flax_sd.files.text import read_text

FIELDS = option_fields(Config)
SECTIONS = {name for name, field in Config.model_fields.items() if is_section(field)}
QUICKSTART = "quickstart.yaml"

LOGGER = logging.getLogger("flax_sd")


class Given(NamedTuple):
    """A config as a command was given it.

    Attributes:
      path: the file.
      flags: the options that flags set.
    """

    config: Config
    path: pathlib.Path
    flags: frozenset[str]


def from_args(kind: type[Options], args: Sequence[str]) -> tuple[Options, Given]:
    """Reads the arguments of a command: a config (the quickstart if none comes first) and flags,
    of which some are the command's own.

    Raises:
      UserError: the file cannot be read, or options are wrong; all are named.
    """
    path, rest = named_config(args)
    flags = take({**FIELDS, **kind.model_fields}, rest, current_name)
    own = {name: value for name, value in flags.values.items() if name in kind.model_fields}
    options = checked(kind, own, flags.problems)
    values = {name: value for name, value in flags.values.items() if name not in own}
    return options, Given(_read(path, values), path, frozenset(values))


def named_config(args: Sequence[str]) -> tuple[pathlib.Path, Sequence[str]]:
    """Returns the config that the arguments begin with, or the quickstart, and the other ones.

    Raises:
      UserError: as of `config_path`.
    """
    named = bool(args) and not args[0].startswith("-")
    return config_path(args[0] if named else QUICKSTART), args[1:] if named else args


def config_path(name: str) -> pathlib.Path:
    """Finds a config by its path, or by its name among those that come with the package.

    Args:
      name: a path, or a name such as `sd15_lora`.

    Raises:
      UserError: the name is empty, or names a user without a home folder.
    """
    try:
        path = user_path(name)
    except ValueError as error:
        raise UserError(f"the config's name {error}") from error
    if path.exists():
        return path
    return bundled_configs().get(path.name.removesuffix(".yaml")) or path


def bundled_configs() -> dict[str, pathlib.Path]:
    """Returns the configs that come with the package, by name."""
    package = pathlib.Path(__file__).parents[1]
    folders = (package / "configs", package.parent / "configs")  # installed, or a checkout
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def parse(path: pathlib.Path, flags: Sequence[str]) -> Config:
    """Reads a config file, overridden by flags such as `--data.resolution 512`, or with `=`.

    A tuple takes several values, a bool none (`--data.random_flip`, `--data.no_random_flip`) or
    true or false; `none` unsets what may be unset.

    Args:
      path: the YAML file.
      flags: the words of the command line behind it.

    Raises:
      UserError: the file cannot be read, or options are wrong; all are named.
    """
    taken = take(FIELDS, flags, current_name)
    checked(Command, {}, taken.problems)
    return _read(path, taken.values)


def _read(path: pathlib.Path, values: JsonObject) -> Config:
    """Reads a config file, overridden by values of flags."""
    raw = read_yaml(path)
    _leave_out_held_out(raw, values, path)
    for option, value in values.items():
        _set(raw, option.split("."), value)
    return _validate(raw, f"config {path} with flags" if values else f"config {path}")


def _leave_out_held_out(raw: JsonObject, values: JsonObject, path: pathlib.Path) -> None:
    """Removes the file's held-out images where a flag names others to train on.

    They are of another kind, and their loss would say nothing of what is learned.
    """
    section = raw.get("data")
    if not isinstance(section, dict) or section.get("held_out") is None:
        return
    other = values.get("data.path", section.get("path"))
    if other != section.get("path") and "data.held_out" not in values:
        LOGGER.warning(
            "data.held_out %s of %s is left out: it belongs to data.path %s. Name held-out "
            "images with --data.held_out, or hold some out with --data.held_out_share 0.1",
            section.pop("held_out"),
            path,
            section.get("path"),
        )


def load(path: pathlib.Path) -> Config:
    """Reads a config file.

    Args:
      path: the YAML file.

    Raises:
      UserError: it is missing, not YAML or has unknown keys or bad values; all are named.
    """
    return _validate(read_yaml(path), f"config {path}")


def read_yaml(path: pathlib.Path) -> JsonObject:
    """Returns the options of a YAML file, unchecked: values are text, read later by the config's
    types.

    Raises:
      UserError: it is missing, not YAML, or has a key twice.
    """
    try:
        text = read_text(path)
    except UserError as error:
        raise UserError(f"config {error}") from error
    try:
        raw = strict_yaml.parse(text)
        if not isinstance(raw, dict | None):
            raise ValueError(f"it must hold options by name, found {_kind(raw)}")
        return _by_section(raw or {})
    except ValueError as error:
        raise UserError(f"config {path}: {error}") from error


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"{value!r}"


def _by_section(raw: dict[strict_yaml.Key, Any]) -> JsonObject:
    """Groups the options by section, including those written as `train.steps: 5`.

    A section that is empty, or none, is left to its defaults. Raises ValueError for an option that
    is there in both ways.
    """
    nested: JsonObject = {}
    lines: dict[str, int] = {}
    problems = []
    for key, value in raw.items():
        section, dot, option = key.partition(".")
        if section not in SECTIONS:
            nested[key] = value
            continue
        if dot:
            value = {strict_yaml.Key.of(option, key.line): value}
        elif is_nothing(value):
            value = {}
        elif not isinstance(value, dict):
            problems.append(f"{key} is a section: write {key}: {{option: value}}, not {value!r}")
            continue
        own = nested.setdefault(section, {})
        for each, content in value.items():
            name = current_name(f"{section}.{each}")
            if name in lines:
                problems.append(strict_yaml.twice(name, [lines[name], each.line]))
            lines[name] = each.line
            own[name.removeprefix(f"{section}.")] = content
    if problems:
        raise ValueError("; ".join(problems))
    return _unset(nested)


def _unset(nested: JsonObject) -> JsonObject:
    """Replaces `none`, where the type allows it, by its meaning."""
    for name, field in FIELDS.items():
        section, _, option = name.rpartition(".")
        place = nested.get(section, {}) if section else nested
        if option in place and is_nothing(place[option]):
            place[option] = nothing(field, place[option])
    return nested


def _set(raw: JsonObject, path: list[str], value: object) -> None:
    """Sets a value in nested options; leaves a section of the wrong kind for the check."""
    for section in path[:-1]:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            return
    raw[path[-1]] = value


def _validate(raw: JsonObject, where: str) -> Config:
    try:
        return Config.model_validate(raw)
    except pydantic.ValidationError as error:
        raise UserError(describe(error, where)) from error


def describe(error: pydantic.ValidationError, where: str) -> str:
    """Describes all problems of a Config; an unknown key with the nearest known one."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(no_such_option(name, name, FIELDS))
        else:
            option = ".".join(part for part in problem["loc"] if isinstance(part, str))
            message = sentence(problem, option, FIELDS.get(option))
            lines.append(f"{name}: {message}" if name else message)
    return listed(f"{where}:", lines)
