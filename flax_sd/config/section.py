"""What every section of the config is made of."""

import re
from typing import Annotated, Any, TypeVar

import pydantic
import tyro
from pydantic import Field

Value = TypeVar("Value")
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


# Marks an option of the training pictures that does not hold where their loss is measured.
TRAINING_ONLY = Field(json_schema_extra={"training_only": True})


def written(pair: str) -> Any:
    """How --help shows an option that takes any number of pairs."""
    return tyro.conf.arg(metavar=f"[{pair} ...]")


class Section(pydantic.BaseModel):
    """A part of the config: unknown keys are errors, values do not change."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


def checked_patterns(value: dict[str, Value]) -> dict[str, Value]:
    """Returns the mapping; raises ValueError for a key that is no regular expression."""
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return value


def marked(section: type[Section], mark: str) -> list[str]:
    """Returns the options of a section that bear a mark."""

    def bears(extra: Any) -> bool:
        return isinstance(extra, dict) and mark in extra

    fields = section.model_fields.items()
    return [name for name, field in fields if bears(field.json_schema_extra)]


def changed(section: Section) -> list[str]:
    """The options of a section that are not at their defaults."""
    fields = type(section).model_fields
    return [name for name, field in fields.items() if getattr(section, name) != field.default]


def refuse_idle(section: Section, meaning: dict[str, bool]) -> None:
    """Raises ValueError for options that were set and that the others leave without effect.

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
