"""Reading a network's config.json: what is supported is checked, the rest is refused or ignored.

A diffusers folder holds, beside each network's weights, the arguments of the class that made them.
Of these a field that our dataclass has is taken; one that the original class reads and we do not
support is refused unless it has that class's default; any other key is read by nobody and ignored.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import pydantic

from flax_sd.errors import UserError

Config = TypeVar("Config")


def read_config(
    cls: type[Config],
    raw: Mapping[str, Any],
    unsupported: Mapping[str, Any],
    where: str,
    *,
    choices: Mapping[str, Collection[str]] | None = None,
) -> Config:
    """Builds the frozen dataclass `cls` out of a parsed config.json.

    Args:
      cls: its annotations give the types; its `__post_init__` may raise a ValueError about fields
        that do not fit each other, one problem a line.
      raw: the parsed file.
      unsupported: the other fields that the original class reads, with that class's defaults.
      where: name of the file for messages.
      choices: the supported values of a field that is a string or a list of strings.

    Raises:
      UserError: fields are missing, of a wrong type or value, or not supported; all are named.
    """
    problems = _refused(raw, unsupported, choices or {})
    known = {name: raw[name] for name in vars(cls)["__dataclass_fields__"] if name in raw}
    try:  # as JSON: lists become tuples and whole numbers floats, yet nothing else is converted
        config = pydantic.TypeAdapter(cls).validate_json(json.dumps(known), strict=True)
    except pydantic.ValidationError as error:
        problems = _sentences(error, known) + problems
    else:
        if not problems:
            return config
    lines = "\n  ".join(problems)
    raise UserError(f"{where} does not describe a network that flax_sd can build:\n  {lines}")


def _refused(
    raw: Mapping[str, Any], unsupported: Mapping[str, Any], choices: Mapping[str, Collection[str]]
) -> list[str]:
    """One line for each field whose value is that of another network."""
    problems = [
        f"{name} is {json.dumps(raw[name])}: only {json.dumps(default)} is supported"
        for name, default in unsupported.items()
        if name in raw and raw[name] != default
    ]
    for name, allowed in choices.items():
        values = raw.get(name, [])
        values = values if isinstance(values, list | tuple) else [values]
        foreign = {value for value in values if isinstance(value, str)} - set(allowed)
        if foreign:
            words = ", ".join(sorted(map(json.dumps, foreign)))
            problems.append(f"{name} has {words}: supported is {' or '.join(sorted(allowed))}")
    return problems


def _sentences(error: pydantic.ValidationError, known: Mapping[str, Any]) -> list[str]:
    """One line a field: a union reports each of its members, which belong together."""
    found: dict[str, list[str]] = {}
    for item in error.errors():
        field = str(item["loc"][0]) if item["loc"] else ""
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        found.setdefault(field, []).append(message)
    lines = []
    for field, messages in found.items():
        if not field:  # from `__post_init__`
            lines += [line for message in messages for line in message.splitlines()]
        elif field not in known:
            lines.append(f"{field} is missing")
        else:
            allowed = " or ".join(dict.fromkeys(messages))
            lines.append(f"{field} is {json.dumps(known[field])}: should be {allowed}")
    return lines
