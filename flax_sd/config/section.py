"""The base of every section of the config."""

import pathlib
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import pydantic
from pydantic import Field
from pydantic.fields import FieldInfo

from flax_sd.files.json_values import JsonObject
from flax_sd.files.paths import user_path, user_source

Value = TypeVar("Value")
Mark = TypeVar("Mark")


def _whole(value: object) -> object:
    """Returns text such as 1e3 or 0x10 as an integer; other values unchanged."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    try:
        if text.startswith(("0x", "0o", "0b")):
            return int(text, 0)
        return int(float(text)) if "e" in text and float(text).is_integer() else value
    except (ValueError, OverflowError):
        return value


def _number(value: object) -> object:
    """Converts like `_whole`, and also text such as 150, which a Literal does not read itself."""
    value = _whole(value)
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


TokenLength = Annotated[Literal[75, 150, 225], pydantic.BeforeValidator(_number)]  # sd-scripts'
Whole = Annotated[int, pydantic.BeforeValidator(_whole)]
Positive = Annotated[Whole, Field(ge=1)]
Count = Annotated[Whole, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# What users name. A path is nothing but a path; a source may also be a hub id or bundled:NAME.
UserPath = Annotated[pathlib.Path, pydantic.BeforeValidator(user_path)]


class OnResume(NamedTuple):
    """Marks an option, or a whole section, that may differ when a run resumes.

    Attributes:
      same: what has to be the same then, by its dotted name in environment.json; None for nothing,
        and "" for what is looked at elsewhere, as the images in pictures.jsonl.
    """

    same: str | None = None


MAY_DIFFER = OnResume()
SAME_MODEL, SAME_PICTURES = OnResume("model_hash"), OnResume("")


class Unset(NamedTuple):
    """Marks an option that stands for another value while it is None.

    Attributes:
      meaning: its section -> the value; None where a run finds it out.
    """

    meaning: Callable[[Any], Any]


class Formerly(NamedTuple):
    """Marks an option that earlier versions called otherwise; that name is still read.

    Attributes:
      name: the former name, without the section.
    """

    name: str


class TrainingOnly(NamedTuple):
    """Marks an option of the training images that is ignored for validation images."""


class WholeSet(NamedTuple):
    """Marks an option that needs all images of a set at once, which a stream never has."""


TRAINING_ONLY, WHOLE_SET = TrainingOnly(), WholeSet()


class Common(NamedTuple):
    """Marks an option that many people set: --help of the commands shows it, --help-all the others.

    Attributes:
      group: the heading under which it stands.
    """

    group: str


MODEL, IMAGES, LORA = Common("Model"), Common("Images"), Common("LoRA")
TRAINING, OUTPUT = Common("Training"), Common("Output")


class Written(NamedTuple):
    """Marks how the help writes an option's value, where its type does not say it.

    Attributes:
      value: as "[PATH=REPEATS ...]".
    """

    value: str


Source = Annotated[str, pydantic.AfterValidator(user_source), Written("PATH")]


class Word(NamedTuple):
    """Marks an option of a command that is typed as a word, without a flag."""


WORD = Word()


def pairs(pair: str) -> Written:
    """Returns the mark of an option that takes any number of pairs."""
    return Written(f"[{pair} ...]")


class Section(pydantic.BaseModel):
    """A section of the config: frozen, and unknown keys are errors."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )

    def meant(self, name: str) -> Any:
        """Returns an option's value; if it is unset, the value that it stands for."""
        value = getattr(self, name)
        if value is not None:
            return value
        mark = mark_of(type(self).model_fields[name], Unset)
        return None if mark is None else mark.meaning(self)

    def in_full(self) -> JsonObject:
        """Returns the options as plain values, with the values that unset ones stand for."""
        plain = self.model_dump(mode="json")
        for name in plain:
            value = getattr(self, name)
            if isinstance(value, Section):
                plain[name] = value.in_full()
            elif value is None:
                plain[name] = self.meant(name)
        return plain


def checked_patterns(value: dict[str, Value]) -> dict[str, Value]:
    """Returns the mapping; raises ValueError for a key that is no regular expression."""
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return value


def marks(model: type[pydantic.BaseModel], kind: type[Mark], prefix: str = "") -> dict[str, Mark]:
    """Returns the options, by dotted name, and the whole sections with a mark of a kind."""
    found = {}
    for name, field in model.model_fields.items():
        mark = mark_of(field, kind)
        if mark is not None:
            found[prefix + name] = mark
        if is_section(field):
            found |= marks(typing.cast(Any, field.annotation), kind, f"{prefix}{name}.")
    return found


def mark_of(field: FieldInfo, kind: type[Mark]) -> Mark | None:
    """Returns an option's mark of a kind, if it has one."""
    return next((mark for mark in field.metadata if isinstance(mark, kind)), None)


def changed(section: Section) -> list[str]:
    """Returns the options of a section that differ from their defaults."""
    fields = type(section).model_fields
    return [name for name, field in fields.items() if getattr(section, name) != field.default]


def refuse_idle(section: Section, meaning: dict[str, bool]) -> None:
    """Raises ValueError for options that were set but have no effect beside the others.

    Args:
      meaning: beginnings of options' names, and whether these have an effect.
    """
    idle = [
        name
        for name in changed(section)
        for start, has_effect in meaning.items()
        if name.startswith(start) and not has_effect
    ]
    if idle:
        raise ValueError(f"{', '.join(idle)} without effect beside the other options")


def is_section(field: FieldInfo) -> bool:
    """Tells whether an option is a section of options."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel)


def option_fields(model: type[pydantic.BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Returns every option of a model, and of its sections, under its dotted name."""
    fields = {}
    for name, field in model.model_fields.items():
        if is_section(field):
            fields |= option_fields(typing.cast(Any, field.annotation), f"{prefix}{name}.")
        else:
            fields[prefix + name] = field
    return fields


def option_values(section: Section, prefix: str = "") -> dict[str, Any]:
    """Returns the values of all options by their dotted names."""
    found = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            found |= option_values(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def choices(field: FieldInfo) -> tuple[object, ...]:
    """Returns the values that an option can have, if they are listed; none if they are not."""
    kinds = [field.annotation, *typing.get_args(field.annotation)]
    listed = next((kind for kind in kinds if typing.get_origin(kind) is Literal), None)
    return typing.get_args(listed)
