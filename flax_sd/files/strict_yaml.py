"""Reads YAML without losing anything; values are text, which the options' types read later.

YAML 1.1 takes 1e-4 for text, 010 for eight, 10:12 for 612 and `no` for false. As text each of them
means what it would mean on the command line.
"""

from collections.abc import Iterator
from typing import Any

import yaml

SCALARS = ("str", "int", "float", "bool", "timestamp", "value")


class Key(str):
    """A key, and its line number."""

    line: int

    @classmethod
    def of(cls, text: str, line: int) -> "Key":
        key = cls(text)
        key.line = line
        return key


class _Loader(yaml.SafeLoader):
    """Reads every scalar but a null as text, and mappings as dicts with `Key`s."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Key, Any]:
    loader.flatten_mapping(node)  # puts what `<<` names first, so that a mapping's own values hold
    values = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(None, None, "found a key that is no text", _start(key_node))
        key = Key.of(key, _line(key_node))
        values.pop(key, None)  # with the line of a merged one
        values[key] = loader.construct_object(value_node, deep=True)
    return values


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
for _name in SCALARS:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", yaml.SafeLoader.construct_scalar)


def parse(text: str) -> Any:
    """Returns the document: None, text, lists, and dicts with `Key`s.

    Raises:
      ValueError: it is not YAML, with the line and column, or a key occurs twice, with the lines.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if problems := list(_twice(node, set())):
            raise ValueError("; ".join(problems))
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"it is not YAML: {_described(error)}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {str(error).splitlines()[0]}") from error


def twice(key: str, lines: Iterator[int] | list[int]) -> str:
    """Returns the message for a key that occurs several times."""
    return f"{key} occurs twice, in lines {' and '.join(map(str, lines))}: leave one"


def _twice(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    """Returns the keys that a mapping has twice, at any depth."""
    if id(node) in seen:  # an anchor's, which several places may name
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _twice(each, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, list[int]] = {}
        for key_node, value_node in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                lines.setdefault(key_node.value, []).append(_line(key_node))
            yield from _twice(value_node, seen)
        yield from (twice(key, there) for key, there in lines.items() if len(there) > 1)


def _start(node: yaml.Node) -> yaml.Mark:
    return node.start_mark


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _described(error: yaml.MarkedYAMLError) -> str:
    """Returns the problem with its position, counted from 1."""
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    hint = " (indent with spaces)" if "'\\t'" in str(error.problem) else ""
    return f"{place}{error.problem or error.context}{hint}"
