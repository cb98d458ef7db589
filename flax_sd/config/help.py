"""The help of a command: what people use on one screen, or every option."""

import pathlib
import shutil
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from flax_sd.config import Config
from flax_sd.config.commands import Command
from flax_sd.config.flags import is_tuple, is_word, typed
from flax_sd.config.mistakes import alternatives
from flax_sd.config.section import (
    Common,
    Section,
    Written,
    choices,
    is_section,
    mark_of,
    option_fields,
    option_values,
)

MAX_WIDTH = 100
INDENT = 30  # columns of a flag and its value
VALUES: dict[Any, str] = {int: "N", float: "N", bool: "", str: "TEXT", pathlib.Path: "PATH"}


class Entry(NamedTuple):
    """An option in the help.

    Attributes:
      group: the heading under which it stands.
      flag: as it is typed.
      default: its value, if it is not set.
    """

    group: str
    flag: str
    field: FieldInfo
    default: object


def page(kind: type[Command], name: str, config: Config | None, *, whole: bool) -> str:
    """Returns the help of a command.

    Args:
      name: the command's.
      config: whose values are shown; None for a command that takes none.
      whole: every option, with all that there is to say.
    """
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    places = [_place(field) for field in kind.model_fields.values() if is_word(field)]
    places = ["[CONFIG]"] if kind.CONFIG else places
    usage = " ".join(["usage:", typed(name), *places, "[--OPTION VALUE ...]"])
    parts = [usage, *_paragraphs(kind.__doc__ or "", width), *([] if whole else [""])]
    parts += _options(kind, config, width, whole)
    examples = [f"  {typed(name)} {example}" for example in kind.EXAMPLES]
    return "\n".join([*parts, *([""] if whole else []), "Examples", *examples, *_end(kind, whole)])


def _end(kind: type[Command], whole: bool) -> list[str]:
    """Returns the last lines: what else there is."""
    more = "" if whole else "--help-all shows every option"
    of = "of the config" if kind.CONFIG else "without the option"
    return ["", "; ".join(filter(None, [f"[…] is the value {of}", more]))]


def summary(kind: type[Command]) -> str:
    """Returns what a command does, in one line."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _paragraphs(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width)


def _options(kind: type[Command], config: Config | None, width: int, whole: bool) -> list[str]:
    """Returns the options, group by group."""
    groups: dict[str, list[Entry]] = {}
    for entry in _entries(kind, config, whole):
        groups.setdefault(entry.group, []).append(entry)
    lines = []
    for group, entries in groups.items():
        lines += ["", group] if whole else [group]
        for entry in entries:
            lines += _lines(entry, width, whole)
    return lines


def _entries(kind: type[Command], config: Config | None, whole: bool) -> Iterator[Entry]:
    """Yields the options of a command: its own, then those of its config."""
    for name, field in kind.model_fields.items():
        group = mark_of(field, Common)
        if group is None and not whole:
            continue
        flag = "" if is_word(field) else f"--{name.replace('_', '-')}"
        heading = "More" if group is None else group.group
        yield Entry(heading, flag, field, None if field.is_required() else field.default)
    if config is not None:
        yield from _whole_config(config) if whole else _common_of(config, kind.CONFIG)


def _common_of(config: Config, groups: tuple[str, ...]) -> Iterator[Entry]:
    """Yields the options of a config that many people set, in the order of their groups."""
    fields, values = option_fields(Config), option_values(config)
    marked = {name: mark_of(field, Common) for name, field in fields.items()}
    for group in groups:
        for name, mark in marked.items():
            if mark is not None and group in (mark.group, name):
                yield Entry(mark.group, f"--{name}", fields[name], values[name])


def _whole_config(config: Config) -> Iterator[Entry]:
    """Yields every option of a config, by its section."""
    values = option_values(config)
    for name, field in Config.model_fields.items():
        if not is_section(field):
            yield Entry("The run", f"--{name}", field, values[name])
            continue
        section = typing.cast(type[Section], field.annotation)
        heading = f"{name}: {' '.join((section.__doc__ or '').split())}"
        for own, option in section.model_fields.items():
            yield Entry(heading, f"--{name}.{own}", option, values[f"{name}.{own}"])


def _lines(entry: Entry, width: int, whole: bool) -> list[str]:
    """Returns an option's flag and value, and beside them, or below, what it does."""
    head = f"  {entry.flag} {_place(entry.field)}".replace("   ", "  ").rstrip()
    text = " ".join((entry.field.description or "").split())
    if not whole:
        text = text.partition(". ")[0].removesuffix(".")
    listed = [str(choice) for choice in choices(entry.field)]
    if listed:
        text += f"{'' if whole else ':'} {'Values: ' if whole else ''}{alternatives(listed)}"
    text += _default(entry.default)
    lines = textwrap.wrap(text, width - INDENT, break_on_hyphens=False)
    beside = len(head) < INDENT
    first = [f"{head:{INDENT}}{lines[0]}"] if beside else [head, " " * INDENT + lines[0]]
    return [*first, *(" " * INDENT + line for line in lines[1:])]


def _default(value: object) -> str:
    """Returns " [VALUE]"; nothing where an option is not set."""
    if value is None or value in ((), {}, ""):
        return ""
    if isinstance(value, bool):
        return " [on]" if value else " [off]"
    if isinstance(value, tuple | dict):
        return f" [{len(value)} of them]" if len(value) > 1 else f" [{', '.join(value)}]"
    return f" [{value}]"


def _place(field: FieldInfo) -> str:
    """Returns what stands for an option's value."""
    for mark in (*field.metadata, *_inner_marks(field.annotation)):
        if isinstance(mark, Written):
            return mark.value
    if is_tuple(field):
        return "VALUE ..."
    if choices(field):
        return "NAME"
    return next((word for kind, word in VALUES.items() if kind in _types(field.annotation)), "")


def _types(annotation: Any) -> list[Any]:
    """Returns the types within an annotation such as `Annotated[int, …] | None`."""
    inner = typing.get_args(annotation)
    return [one for each in inner for one in _types(each)] if inner else [annotation]


def _inner_marks(annotation: Any) -> list[Any]:
    """Returns the marks within a union."""
    return [
        mark for kind in typing.get_args(annotation) for mark in getattr(kind, "__metadata__", ())
    ]
