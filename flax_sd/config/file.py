"""From a YAML file and flags to a Config; every mistake is named, with the nearest right name."""

import difflib
import logging
import pathlib
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic
import tyro
from pydantic.fields import FieldInfo

from flax_sd.config import Config
from flax_sd.config import flags as command
from flax_sd.config.former_names import current_name
from flax_sd.config.section import is_section
from flax_sd.errors import UserError, listed
from flax_sd.files import strict_yaml
from flax_sd.files.json_values import JsonObject
from flax_sd.files.paths import user_path
from flax_sd.files.text import read_text

NOTHING = ("none", "null")  # which unset what may be unset
# Pydantic's words for these are of Python's types, which a config does not have.
SHOULD = {
    "tuple_type": "should be a list: [one, another] in a file, one another as a flag",
    "dict_type": "should be pairs: {KEY: VALUE} in a file, KEY=VALUE as a flag",
    "path_type": "should be a path (~ alone is nothing in YAML; ./~ or ~/x are paths)",
    "string_type": "should be text: put it in quotes",
}
SECTIONS = {name for name, field in Config.model_fields.items() if is_section(field)}

LOGGER = logging.getLogger("flax_sd")


def from_args(name: str, args: Sequence[str]) -> Config:
    """Reads the arguments of a command: a config (the quickstart if none comes first) and flags.

    Raises:
      UserError, SystemExit: as of `parse`.
    """
    named = bool(args) and not args[0].startswith("-")
    path = config_path(args[0] if named else "quickstart.yaml")
    return parse(path, args[1:] if named else args, name)


def config_path(name: str) -> pathlib.Path:
    """Finds a config by its path, or by its name among those that come with the package.

    Raises:
      UserError: the name is empty, or names a user without a home folder.
    """
    try:
        path = user_path(name)
    except ValueError as error:
        raise UserError(f"the config's name {error}") from error
    if path.exists():
        return path
    package = pathlib.Path(__file__).parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        for candidate in (folder / path.name, folder / f"{path.name}.yaml"):
            if candidate.is_file():
                return candidate
    return path


def parse(path: pathlib.Path, flags: Sequence[str], name: str = "train") -> Config:
    """Reads a config file, overridden by flags such as `--data.resolution 512`, or with `=`.

    A tuple takes several values, a bool none (`--data.random_flip`, `--data.no_random_flip`) or
    true or false; `none` unsets what may be unset.

    Args:
      name: of the command, for its help.

    Raises:
      UserError: the file cannot be read, or options are wrong; all are named.
      SystemExit: --help was asked for.
    """
    raw = read_yaml(path)
    if {"-h", "--help"} & set(flags):
        default = _validate(raw, f"config {path}")
        tyro.cli(Config, default=default, args=["--help"], prog=command.typed(name))
    values = read_flags(flags)
    _leave_out_held_out(raw, values, path)
    for option, value in values.items():
        _set(raw, option.split("."), value)
    return _validate(raw, f"config {path} with flags" if flags else f"config {path}")


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
        elif _is_nothing(value):
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
    for name, field in option_fields(Config).items():
        section, _, option = name.rpartition(".")
        place = nested.get(section, {}) if section else nested
        if option in place and _is_nothing(place[option]):
            place[option] = _nothing(field, place[option])
    return nested


def _is_nothing(value: object) -> bool:
    return value is None or isinstance(value, str) and value.strip().lower() in NOTHING


def _nothing(field: FieldInfo, value: object) -> object:
    """Returns the meaning of `none` for an option: no items, no value, or a text like others."""
    container = typing.get_origin(field.annotation)
    if container in (tuple, dict):
        return container()
    return None if type(None) in typing.get_args(field.annotation) else value


def read_flags(flags: Sequence[str]) -> JsonObject:
    """Returns the values of flags by dotted option name: text, read later by the config's types.

    Raises:
      UserError: an argument is no option or lacks its value; all such are named.
    """
    fields, values, problems = option_fields(Config), JsonObject(), list[str]()
    for given, words in _grouped(flags):
        name = current_name(given)
        positive = (
            name.replace("no_", "", 1) if name.startswith("no_") else name.replace(".no_", ".")
        )
        if name in fields:
            try:
                values[name] = _beside(values, name, _value(fields[name], words))
            except ValueError as error:
                problems.append(f"--{name} {error}")
        elif not words and positive in fields and fields[positive].annotation is bool:
            values[positive] = _beside(values, positive, False)
        else:
            problems.append(
                f"{_flag(name, words)}: there is no such option{_nearest(name, fields)}"
            )
    if problems:
        raise UserError(listed("the command line:", problems))
    return values


def _beside(values: JsonObject, name: str, value: object) -> object:
    """Returns the value of a flag, joined with earlier values of the same flag.

    Items come together; of single values the last holds, as a script's come before a user's own,
    and that is said. Raises ValueError for a key that occurs twice.
    """
    before = values.get(name)
    if isinstance(before, dict) and isinstance(value, dict):
        return _once([*before.items(), *value.items()])
    if isinstance(before, list | tuple) and isinstance(value, list | tuple):
        return [*before, *value]
    if name in values and before != value:
        LOGGER.warning("--%s is given twice, as %s and %s: %s is used", name, before, value, value)
    return value


def _once(pairs: Sequence[tuple[str, object]]) -> JsonObject:
    """Returns the pairs as a dict; raises ValueError for a key that occurs twice."""
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"has {', '.join(twice)} twice: leave one")
    return dict(pairs)


def _grouped(flags: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Groups the words by the flag before them; words before the first flag have none."""
    groups: list[tuple[str, list[str]]] = []
    for word in flags:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            groups.append((name.replace("-", "_"), [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            groups.append(("", [word]))
    return groups


def _flag(name: str, words: list[str]) -> str:
    return f"--{name}" if name else words[0]


def _value(field: FieldInfo, words: list[str]) -> object:
    """Returns the value of an option from the words after its flag; raises ValueError for too
    many."""
    if len(words) == 1 and _is_nothing(words[0]):
        return _nothing(field, words[0])
    if typing.get_origin(field.annotation) is tuple:
        return words
    if typing.get_origin(field.annotation) is dict:
        pairs = [word.rpartition("=") for word in words]
        if wrong := [word for word in words if "=" not in word]:
            raise ValueError(f"takes KEY=VALUE, any number of them, found {', '.join(wrong)}")
        return _once([(key, value) for key, _, value in pairs])
    if field.annotation is bool and not words:
        return True
    if len(words) != 1:
        raise ValueError(f"takes one value, found {len(words) or 'none'}: {' '.join(words)}")
    return words[0]


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
    known, lines = option_fields(Config), []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{name}: there is no such option{_nearest(name, known)}")
        else:
            found = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
            message = SHOULD.get(problem["type"], problem["msg"].removeprefix("Value error, "))
            lines.append(f"{name}: {message}{found}" if name else message)
    return listed(f"{where}:", lines)


def _nearest(name: str, known: Iterable[str]) -> str:
    """Returns the option that was perhaps meant, by its whole name or by its last part."""
    name = name.lower().replace("-", "_")
    near = [name] if name in SECTIONS else difflib.get_close_matches(name, known, 1, 0.6)
    if not near:
        last = {option.rpartition(".")[2]: option for option in known}
        near = [last[n] for n in difflib.get_close_matches(name.rpartition(".")[2], last, 1, 0.6)]
    return f"; did you mean {near[0]}?" if near else ""


def option_fields(model: type[pydantic.BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Returns every option of a config model under its dotted name."""
    fields = {}
    for name, field in model.model_fields.items():
        if is_section(field):
            fields |= option_fields(typing.cast(Any, field.annotation), f"{prefix}{name}.")
        else:
            fields[prefix + name] = field
    return fields
