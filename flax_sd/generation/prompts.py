"""Rows of prompts with their settings, from a flag or a file, checked."""

import difflib
import json
import math
import pathlib
from collections.abc import Iterator, Mapping

import pydantic

from flax_sd.errors import UserError, listed
from flax_sd.files.json_values import JsonObject
from flax_sd.files.text import parse_object, read_text
from flax_sd.generation.options import Settings
from flax_sd.generation.prompt_lines import parse_line
from flax_sd.samplers import find


class Row(Settings):
    """One prompt."""

    prompt: str
    """What the images should show."""


def faults(values: JsonObject) -> list[str]:
    """Returns the problems of settings, one sentence each; unset ones have none."""
    problems = []
    for name in ("width", "height"):
        side = values.get(name)
        if side is not None and (side < 8 or side % 8):
            near = max(8, round(side / 8) * 8)
            problems.append(f"{name} is {side}: should be a multiple of 8, such as {near}")
    for name, least in (("steps", 1), ("images_per_prompt", 1), ("clip_skip", 0), ("seed", -1)):
        if (value := values.get(name)) is not None and value < least:
            drawn = ", where -1 draws one" if name == "seed" else ""
            problems.append(f"{name} is {value}: should be {least} or more{drawn}")
    if values.get("seed", 0) + values.get("images_per_prompt", 1) > 2**63:
        problems.append(f"seed is {values['seed']}: should be below 2^63")
    if not math.isfinite(values.get("guidance_scale", 1)):
        problems.append(f"guidance_scale is {values['guidance_scale']}: should be a number")
    sampler = values.get("sampler")
    if sampler is not None:
        try:
            find(sampler)
        except UserError as error:
            problems.append(f"sampler: {error}")
    for name in ("prompt", "negative_prompt"):
        if (text := values.get(name)) and _has_lone_surrogate(text):
            problems.append(f"{name} holds half a surrogate pair, which is no character")
    return problems


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def read_rows(path: pathlib.Path, defaults: Mapping[str, object]) -> list[Row]:
    """Reads prompts: a .txt with one on each line, or a .jsonl with objects that have Row's keys.

    A line of text may have options of sd-scripts; a line that begins with # is a comment.

    Args:
      defaults: settings that rows have if they set none of their own.

    Raises:
      UserError: the file cannot be read or holds no prompt, a row has an unknown key or a bad
        value; all are named with their lines.
    """
    form = path.suffix.lower()
    if form not in (".txt", ".jsonl"):
        raise UserError(f"{path} should end in .txt (a prompt a line) or .jsonl (an object a line)")
    rows, problems = [], []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        values, wrong = _values(line.strip(), form)
        problems += [f"line {number}: {what}" for what in wrong]
        if wrong or not values:
            continue
        try:
            row = Row.model_validate({**defaults, **values}, strict=True)
        except pydantic.ValidationError as error:
            problems += [f"line {number}: {what}" for what in _describe(error)]
            continue
        problems += [f"line {number}: {what}" for what in faults(values)]
        rows.append(row)
    if problems:
        raise UserError(listed(f"{path} cannot be used:", problems))
    if not rows:
        raise UserError(f"{path} holds no prompt")
    return rows


def _values(line: str, form: str) -> tuple[JsonObject, list[str]]:
    """Returns the values of a line, empty for a comment, and its problems."""
    if form == ".txt":
        return parse_line(line)
    values = parse_object(line)
    if isinstance(values, str):
        return {}, [values]
    return (values, []) if values else ({}, ["has no prompt"])


def _describe(error: pydantic.ValidationError) -> Iterator[str]:
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, Row.model_fields, 1, 0.5)
            known = (
                f"did you mean {near[0]}?" if near else f"keys are {', '.join(Row.model_fields)}"
            )
            yield f"there is no key {name}: {known}"
        elif problem["type"] == "missing":
            yield f"has no {name}"
        else:
            should = problem["msg"].removeprefix("Input should be ")
            yield f"{name} is {json.dumps(problem['input'])}: should be {should}"
