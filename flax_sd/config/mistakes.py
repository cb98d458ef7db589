"""How a mistake in an option is worded: what was found, and the nearest right name or value."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic.fields import FieldInfo

from flax_sd.config import coming_from
from flax_sd.config.section import choices

# Pydantic's words for these are of Python's types, which a config does not have.
SHOULD = {
    "tuple_type": "should be a list: [one, another] in a file, one another as a flag",
    "dict_type": "should be pairs: {KEY: VALUE} in a file, KEY=VALUE as a flag",
    "path_type": "should be a path (~ alone is nothing in YAML; ./~ or ~/x are paths)",
    "string_type": "should be text: put it in quotes",
}


def no_such_option(written: str, name: str, known: Iterable[str]) -> str:
    """Returns the sentence about an option that does not exist.

    Args:
      written: the name as the user has it.
      name: the same without dashes.
      known: the options, and sections, that exist.
    """
    listed = [*known]
    section, _, own = name.lower().replace("-", "_").rpartition(".")
    is_ours = section and own in {option.rpartition(".")[2] for option in listed}
    theirs = None if is_ours else coming_from.answer(own, listed)
    if theirs is not None:
        return f"{written}: there is no such option here; {theirs}"
    return f"{written}: there is no such option{_meant(name, listed)}"


def _meant(name: str, known: list[str]) -> str:
    """Returns the option that was perhaps meant, by its whole name or by its last part."""
    name = name.lower().replace("-", "_")
    sections = {option.partition(".")[0] for option in known if "." in option}
    if name in sections:
        return f"; did you mean {name}?"
    near = difflib.get_close_matches(name, known, 1, 0.6)
    if not near:
        last = {option.rpartition(".")[2]: option for option in known}
        near = [last[n] for n in difflib.get_close_matches(name.rpartition(".")[2], last, 1, 0.6)]
    return f"; did you mean {near[0]}?" if near else ""


def sentence(problem: Any, name: str, field: FieldInfo | None) -> str:
    """Returns what pydantic has to say about an option's value, in words of a config."""
    value = problem["input"]
    found = "" if isinstance(value, dict) else f", found {value!r}"
    if problem["type"] == "literal_error" and field is not None:
        listed = [str(choice) for choice in choices(field)]
        ours = coming_from.our_value(name, str(value))
        meant = nearest(str(value), listed) if ours is None else f", which is {ours} here"
        return f"should be {alternatives(listed)}{found}{meant}"
    return f"{SHOULD.get(problem['type'], problem['msg'].removeprefix('Value error, '))}{found}"


def alternatives(listed: list[str]) -> str:
    """Returns "a, b or c"."""
    *first, last = listed
    return f"{', '.join(first)} or {last}" if first else last


def nearest(given: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" for the nearest of the known values; nothing if none is near."""
    by_letters = {value.lower(): value for value in known}
    near = difflib.get_close_matches(given.lower(), by_letters, 1, 0.5)
    return f"; did you mean {by_letters[near[0]]}?" if near else ""
