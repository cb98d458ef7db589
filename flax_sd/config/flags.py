"""How a command is typed, and its flags read."""

import logging
import pathlib
import shlex
import sys
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic
import tyro
from pydantic.fields import FieldInfo

from flax_sd.errors import UserError, all_of
from flax_sd.files.json_values import JsonObject

LOGGER = logging.getLogger("flax_sd")
SCRIPTS = ("train", "sample")  # which a checkout has beside the package
Options = TypeVar("Options", bound=pydantic.BaseModel)


def typed(name: str) -> str:
    """Returns a command as the user types it: `python train.py` if such a script was started."""
    return shlex.join(words(name))


def words(name: str) -> list[str]:
    """Returns the same as a list of words, for `shlex.join`."""
    started = pathlib.Path(sys.argv[0])
    if name in SCRIPTS and started.name in [f"{script}.py" for script in SCRIPTS]:
        return ["python", str(started.with_name(f"{name}.py"))]
    return ["flax-sd", name]


def read_flags(kind: type[Options], name: str, args: Sequence[str]) -> Options:
    """Reads the flags of a command that takes no config.

    Raises:
      UserError: a flag has a value that it cannot have; all are named.
      SystemExit: a flag is unknown (status 2) or --help was asked for (status 0).
    """
    return _read(kind, name, args)[0]


def take_flags(kind: type[Options], name: str, args: Sequence[str]) -> tuple[Options, list[str]]:
    """Reads a command's own flags, and returns the other words, a config's, in their order.

    Raises:
      UserError: a flag has a value that it cannot have; all are named.
      SystemExit: a flag lacks its value (status 2).
    """
    return _read(kind, name, args, return_unknown_args=True, add_help=False)


def _read(
    kind: type[Options], name: str, args: Sequence[str], **taking: Any
) -> tuple[Options, list[str]]:
    _say_repeated(kind, args)
    found: JsonObject = {}
    # tyro would print pydantic's own words: it only collects the values, and the check is ours.
    collected = {"__init__": lambda self, **values: found.update(values)}
    named = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    collecting: Any = type(kind.__name__, (kind,), collected | named)
    made: Any = tyro.cli(collecting, args=list(args), prog=typed(name), **taking)
    try:
        return kind.model_validate(found), made[1] if taking else []
    except pydantic.ValidationError as error:
        raise UserError(all_of(_described(error))) from error


def _say_repeated(kind: type[Options], args: Sequence[str]) -> None:
    """Warns of repeated flags, of which tyro takes the last."""
    single = {name for name, field in kind.model_fields.items() if not _takes_several(field)}
    flags = [word.partition("=")[0] for word in args if word.startswith("--")]
    names = [flag[2:].replace("-", "_") for flag in flags]
    for name in dict.fromkeys(names):
        if names.count(name) > 1 and name in single:
            LOGGER.warning("--%s is given twice: the last one is used", name.replace("_", "-"))


def _takes_several(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is tuple


def _described(error: pydantic.ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]).replace("_", "-")
        lines.append(f"--{name} {problem['msg'].removeprefix('Value error, ')}")
    return lines
