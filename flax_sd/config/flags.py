"""How a command is typed, and its flags read."""

import logging
import pathlib
import shlex
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import pydantic
from pydantic.fields import FieldInfo

from flax_sd.config.mistakes import no_such_option, sentence
from flax_sd.config.section import Word, Written, mark_of
from flax_sd.errors import UserError, listed
from flax_sd.files.json_values import JsonObject

LOGGER = logging.getLogger("flax_sd")
SCRIPTS = ("train", "sample")  # which a checkout has beside the package
NOTHING = ("none", "null")  # which unset what may be unset
SWITCH = ("true", "false", "yes", "no", "on", "off", "1", "0")  # pydantic's words, of many letters
SHORT = {"-v": "--verbose"}
Options = TypeVar("Options", bound=pydantic.BaseModel)
Fields = Mapping[str, FieldInfo]


class Flags(NamedTuple):
    """What was typed: text, read later by the options' types.

    Attributes:
      values: by the option's dotted name.
      words: those that belong to no flag.
      problems: a sentence for each.
    """

    values: JsonObject
    words: list[str]
    problems: list[str]


def typed(name: str) -> str:
    """Returns a command as the user types it: `python train.py` if such a script was started."""
    return shlex.join(words(name))


def words(name: str) -> list[str]:
    """Returns the same as a list of words, for `shlex.join`."""
    started = pathlib.Path(sys.argv[0])
    if name in SCRIPTS and started.name in [f"{script}.py" for script in SCRIPTS]:
        return ["python", str(started.with_name(f"{name}.py"))]
    return ["flax-sd", name]


def read_flags(kind: type[Options], args: Sequence[str]) -> Options:
    """Reads the options of a command that takes no config: flags, and words in their order.

    Raises:
      UserError: an option is unknown, missing or has a value that it cannot have; all are named.
    """
    fields = kind.model_fields
    places = [name for name, field in fields.items() if is_word(field)]
    flags = take(fields, args, words=bool(places))
    values, left = flags.values, flags.words
    for name in places:
        if is_tuple(fields[name]) and left:
            values[name], left = left, []
        elif left:
            values[name], *left = left
    problems = [*flags.problems, *(f"{word}: one {places[-1]} is enough" for word in left)]
    return checked(kind, values, problems)


def checked(kind: type[Options], values: JsonObject, problems: list[str]) -> Options:
    """Returns the options of a command.

    Raises:
      UserError: there are problems already, or values cannot be; all are named.
    """
    try:
        options = kind.model_validate(values)
    except pydantic.ValidationError as error:
        found = [_described(kind, problem) for problem in error.errors()]
        named = {problem.split()[0].rstrip(":") for problem in problems}  # what is wrong is there
        problems = problems + [one for one in found if one.split()[0] not in named]
    else:
        if not problems:
            return options
    raise UserError(listed("the command line:", problems))


def _described(kind: type[pydantic.BaseModel], problem: Any) -> str:
    """Describes pydantic's problem with an option of a command."""
    name = str(problem["loc"][0])
    field = kind.model_fields[name]
    word = mark_of(field, Written)
    written = word.value if word and is_word(field) else f"--{name.replace('_', '-')}"
    if problem["type"] == "missing":
        return f"{written} is missing: {(field.description or '').partition('. ')[0]}"
    return f"{written}: {sentence(problem, name, field)}"


def take(
    fields: Fields,
    args: Sequence[str],
    current_name: Callable[[str], str] = str,
    *,
    words: bool = False,
) -> Flags:
    """Reads `--name value`, `--name=value`, `--name a b` for a tuple, `--name` or `--no_name` for
    a bool.

    Args:
      current_name: a name -> the one that it has today.
      words: those that no flag takes are the command's own; else they are problems.
    """
    values, own, problems = JsonObject(), list[str](), list[str]()
    for given, following in _grouped(args):
        name, value = _switched(current_name(given), fields)
        field = fields.get(name)
        if words and (not given or field is not None):
            following, left = _divided(None if value is False else field, following)
            own += left
        if value is False and following:
            problems.append(f"--{given} takes no value, found {' '.join(following)}")
        elif not given:
            problems += [no_such_option(word, word, fields) for word in following]
        elif field is None:
            problems.append(no_such_option(f"--{given}", given, fields))
        else:
            try:
                read = _value(field, following) if value is None else value
                values[name] = _beside(values, name, read)
            except ValueError as error:
                problems.append(f"--{name} {error}")
    return Flags(values, own, problems)


def _grouped(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Groups the words by the flag before them; words before the first flag have none."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    for word in (SHORT.get(word, word) for word in args):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            groups.append((name.replace("-", "_"), [value] if equals else []))
        else:
            groups[-1][1].append(word)
    return groups if groups[0][1] else groups[1:]


def _switched(name: str, fields: Fields) -> tuple[str, bool | None]:
    """Returns the option of a flag, and False if the flag, as --no_name, turns it off."""
    positive = name.replace("no_", "", 1) if name.startswith("no_") else name.replace(".no_", ".")
    if name in fields or positive not in fields:
        return name, None
    return (positive, False) if fields[positive].annotation is bool else (name, None)


def _divided(field: FieldInfo | None, following: list[str]) -> tuple[list[str], list[str]]:
    """Divides words into those of the flag before them, and others."""
    if field is None:
        return [], following
    if is_tuple(field) or typing.get_origin(field.annotation) is dict:
        return following, []
    is_switch = field.annotation is bool
    count = int(not is_switch or following[:1] != [] and following[0].lower() in SWITCH)
    return following[:count], following[count:]


def _beside(values: JsonObject, name: str, value: object) -> object:
    """Returns the value of a flag, joined with earlier values of the same flag.

    Items come together; of single values the last holds, as a script's come before a user's own,
    and that is said. Raises ValueError for a key that occurs twice.
    """
    before = values.get(name)
    if isinstance(before, dict) and isinstance(value, dict):
        return _once([*before.items(), *value.items()])
    if isinstance(before, list | tuple) and isinstance(value, list | tuple):
        return [*before, *value]
    if name in values and before != value:
        LOGGER.warning("--%s is given twice, as %s and %s: %s is used", name, before, value, value)
    return value


def _once(pairs: Sequence[tuple[str, object]]) -> JsonObject:
    """Returns the pairs as a dict; raises ValueError for a key that occurs twice."""
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"has {', '.join(twice)} twice: leave one")
    return dict(pairs)


def _value(field: FieldInfo, given: list[str]) -> object:
    """Returns the value of an option from the words after its flag; raises ValueError for too
    many."""
    if len(given) == 1 and is_nothing(given[0]):
        return nothing(field, given[0])
    if is_tuple(field):
        return given
    if typing.get_origin(field.annotation) is dict:
        pairs = [word.rpartition("=") for word in given]
        if wrong := [word for word in given if "=" not in word]:
            raise ValueError(f"takes KEY=VALUE, any number of them, found {', '.join(wrong)}")
        return _once([(key, value) for key, _, value in pairs])
    if field.annotation is bool and not given:
        return True
    if len(given) != 1:
        raise ValueError(f"takes one value, found {len(given) or 'none'}: {' '.join(given)}")
    return given[0]


def is_tuple(field: FieldInfo) -> bool:
    """Tells whether an option takes any number of values."""
    return typing.get_origin(field.annotation) is tuple


def is_word(field: FieldInfo) -> bool:
    """Tells whether an option is typed as a word, without a flag."""
    return mark_of(field, Word) is not None


def is_nothing(value: object) -> bool:
    """Tells whether a value is written as nothing."""
    return value is None or isinstance(value, str) and value.strip().lower() in NOTHING


def nothing(field: FieldInfo, value: object) -> object:
    """Returns the meaning of `none` for an option: no items, no value, or a text like others."""
    container = typing.get_origin(field.annotation)
    if container in (tuple, dict):
        return container()
    return None if type(None) in typing.get_args(field.annotation) else value
