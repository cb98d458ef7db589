"""From a YAML file and flags to a Config; every mistake is named, with the nearest right name."""

import difflib
import pathlib
import typing
from collections.abc import Sequence
from typing import Any

import pydantic
import tyro
import yaml

from flax_sd.config import Config
from flax_sd.errors import UserError


def parse(path: pathlib.Path, flags: Sequence[str]) -> Config:
    """The file sets, the flags override.

    Raises:
      UserError: the file is not there or not a config; all its problems are named.
      SystemExit: a flag is wrong (status 2) or --help was asked for (status 0).
    """
    from_file = load(path)
    prog = f"train.py {path}"
    try:
        return tyro.cli(Config, default=from_file, args=list(flags), prog=prog)
    except pydantic.ValidationError as error:
        raise UserError(describe(error, "the flags")) from error


def load(path: pathlib.Path) -> Config:
    """Reads a config file.

    Raises:
      UserError: it is missing, not YAML or has unknown keys or bad values; all are named.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config {path} is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise UserError(f"config {path} is not YAML: {error}") from error
    if not isinstance(raw, dict | None):
        raise UserError(f"config {path} must hold options by name, found {type(raw).__name__}")
    try:
        return Config.model_validate(raw or {})
    except pydantic.ValidationError as error:
        raise UserError(describe(error, f"config {path}")) from error


def describe(error: pydantic.ValidationError, where: str) -> str:
    """All problems, one line each; an unknown key is shown beside the nearest known one."""
    known = option_names(Config)
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            lines.append(f"{name}: there is no such option{hint}")
        else:
            found = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {message}{found}" if name else message)
    return "\n  ".join([f"{where}:", *lines])


def option_names(model: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    """Every dotted option name of a config model."""
    names = []
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and not typing.get_args(kind):
            if issubclass(kind, pydantic.BaseModel):
                names += option_names(kind, f"{prefix}{name}.")
                continue
        names.append(prefix + name)
    return names
