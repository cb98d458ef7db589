"""Reads a network's config.json: checks supported fields, refuses or ignores the others.

A diffusers folder holds, beside each network's weights, the arguments of the class that made them.
Of these a field that our dataclass has is taken; one that the original class reads and we do not
support is refused where its value makes another network; any other key changes nothing here and is
ignored. A key that is absent has its default; null is Python's None, as in diffusers.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, TypeVar

import pydantic

from flax_sd.errors import UserError, listed
from flax_sd.files.json_values import JsonObject, is_finite, never_set, shown

Config = TypeVar("Config")
# Bounds that no real network comes near: what is beyond would be built for hours, then fail.
Width = Annotated[int, pydantic.Field(ge=1, le=2**20)]  # channels
Depth = Annotated[int, pydantic.Field(ge=1, le=100)]  # layers, one after another
BLOCKS = pydantic.Field(min_length=1, max_length=10)


def read_config(
    cls: type[Config],
    raw: Mapping[str, object],
    unsupported: Mapping[str, object],
    where: str,
    *,
    choices: Mapping[str, Collection[str]] | None = None,
    alike: Mapping[str, Callable[[object], bool]] | None = None,
) -> Config:
    """Builds the frozen dataclass `cls` from a parsed config.json.

    Args:
      cls: its annotations give the types; its `__post_init__` may raise a ValueError about fields
        that do not fit each other, one problem a line.
      raw: the parsed file.
      unsupported: the other fields that the original class reads, with that class's defaults.
      where: name of the file for messages.
      choices: the supported values of a field that is a string or a list of strings.
      alike: of an unsupported field, whether a value makes the network that the default makes.

    Raises:
      UserError: fields are missing, of a wrong type or value, or not supported; all are named.
    """
    fields = {k: v for k, v in raw.items() if k not in never_set(raw)}
    problems = _refused(fields, unsupported, choices or {}, alike or {})
    known = {
        name: _truth(fields[name]) if field.type is bool else fields[name]
        for name, field in vars(cls)["__dataclass_fields__"].items()
        if name in fields
    }
    problems += [
        f"{k} is {shown(v)}: NaN or infinite" for k, v in known.items() if not is_finite(v)
    ]
    try:  # as JSON: lists become tuples and whole numbers floats, yet nothing else is converted
        config = pydantic.TypeAdapter(cls).validate_json(json.dumps(known), strict=True)
    except pydantic.ValidationError as error:
        problems = _sentences(error, known) + problems
    else:
        if not problems:
            return config
    head = f"{where} does not describe a network that flax_sd can build:"
    raise UserError(listed(head, problems))


def diffusers_spelling(raw: Mapping[str, object]) -> JsonObject:
    """Returns the config with one spelling for each value, where diffusers allows several.

    A `sample_size` that is not valid is dropped: no network reads it, and pipelines check it.
    """
    new = dict(raw)
    if isinstance(act := raw.get("act_fn"), str):
        new["act_fn"] = {"swish": "silu"}.get(act.lower(), act.lower())
    if isinstance(padding := raw.get("downsample_padding"), list) and len(padding) in (1, 2):
        new["downsample_padding"] = padding[0] if padding[0] == padding[-1] else padding
    size = raw.get("sample_size")
    if any(type(side) is not int for side in (size if isinstance(size, list) else [size])):
        new["sample_size"] = None
    for name in ("down_block_types", "up_block_types"):
        if isinstance(kinds := raw.get(name), list):
            new[name] = [k.removeprefix("UNetRes") if isinstance(k, str) else k for k in kinds]
    return new


def is_only(value: object, number: int) -> bool:
    """Returns whether a value is only that number, once or in a list, or null."""
    values = value if isinstance(value, list) else [value]
    return all(one is None or one == number for one in values)


def _truth(value: object) -> object:
    """Returns a flag's truth in Python; a text is unchanged, because "false" would be true."""
    return value if isinstance(value, str) else bool(value)


def _refused(
    raw: Mapping[str, object],
    unsupported: Mapping[str, object],
    choices: Mapping[str, Collection[str]],
    alike: Mapping[str, Callable[[object], bool]],
) -> list[str]:
    """Returns one line for each field whose value is not supported."""
    problems = [
        f"{name} is {shown(raw[name])}: only {json.dumps(default)} is supported"
        for name, default in unsupported.items()
        if name in raw and not _as_default(raw[name], default, alike.get(name))
    ]
    for name, allowed in choices.items():
        values = raw.get(name, [])
        values = values if isinstance(values, list | tuple) else [values]
        foreign = {value for value in values if isinstance(value, str)} - set(allowed)
        if foreign:
            words = ", ".join(sorted(map(shown, foreign)))
            problems.append(f"{name} has {words}: supported is {' or '.join(sorted(allowed))}")
    return problems


def _as_default(value: object, default: object, alike: Callable[[object], bool] | None) -> bool:
    if value == default or (alike is not None and alike(value)):
        return True
    return default is False and _truth(value) is False


def _sentences(error: pydantic.ValidationError, known: Mapping[str, object]) -> list[str]:
    """Returns one line for each field, although a union reports each of its members."""
    found: dict[str, list[str]] = {}
    for item in error.errors():
        field = str(item["loc"][0]) if item["loc"] else ""
        message = item["msg"].removeprefix("Value error, ")
        found.setdefault(field, []).append(message)
    lines = []
    for field, messages in found.items():
        if not field:  # from `__post_init__`
            lines += [line for message in messages for line in message.splitlines()]
        elif field not in known:
            lines.append(f"{field} is missing")
        else:
            wanted = (
                m.removeprefix("Input should ").removeprefix("Tuple should ") for m in messages
            )
            allowed = " or ".join(dict.fromkeys(wanted))
            lines.append(f"{field} is {shown(known[field])}: should {allowed}")
    return lines


def block_problems(config: Any) -> list[str]:
    """Returns what does not fit among a network's blocks: their kinds, widths and norms' groups."""
    widths, groups, problems = config.block_out_channels, config.norm_num_groups, []
    for name in ("down_block_types", "up_block_types"):
        if len(value := getattr(config, name)) != len(widths):
            problems.append(
                f"{name} has {len(value)} entries: block_out_channels has {len(widths)}, "
                "one a block"
            )
    for channels in widths:
        if groups < 1 or channels % groups:
            problems.append(
                f"norm_num_groups {groups} does not divide a block's {channels} channels"
            )
    return problems
