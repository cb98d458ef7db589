"""JSON from other programs: parsed within bounds, and its values as text for messages."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from flax_sd.errors import UserError

JsonObject = dict[str, Any]  # as files of others hold them
_DEEPEST = 50  # objects and lists within one another; real files have five
_LONGEST = 100  # letters


def parse_object(data: bytes, where: str) -> JsonObject:
    """Returns the JSON object in a file's content.

    Args:
      where: name of the file for messages.

    Raises:
      UserError: it holds something else.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        value, deep = None, True
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    else:
        deep = _is_deep(value)
    if deep:
        raise UserError(
            f"{where} has more than {_DEEPEST} lists within one another: no real one has"
        )
    if not isinstance(value, dict):
        raise UserError(f"{where} holds {type(value).__name__}, not a JSON object")
    return value


def _is_deep(value: object) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        inside = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for many in inside for one in many if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def never_set(raw: Mapping[str, object]) -> Collection[str]:
    """Returns the fields of a live object's config that only have their class's default."""
    names = raw.get("_use_default_values")
    return [n for n in names if isinstance(n, str)] if isinstance(names, list | tuple) else []


def is_finite(value: object) -> bool:
    """Tells whether a number, or every number in a list, is neither NaN nor infinite."""
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def as_json(value: object) -> str:
    """Returns a value as JSON; configs of live objects may hold arrays."""
    return json.dumps(
        value, default=lambda x: x.tolist() if isinstance(x, np.ndarray | np.generic) else repr(x)
    )


def shown(value: object) -> str:
    """Returns a value for a message, as JSON, shortened."""
    text = as_json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
