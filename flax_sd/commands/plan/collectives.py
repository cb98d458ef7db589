"""The communication between devices: collective operations in a compiled program's text."""

import collections
import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_HEADER = re.compile(r"(?:ENTRY )?%?([\w.-]+) .*\{$")
# An asynchronous collective is a pair -start, -done, of which the latter has the bare result.
_COLLECTIVE = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(?:-done)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|\w+_computations?)=\{?((?:%?[\w.-]+(?:, )?)+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Traffic(NamedTuple):
    """Collectives of one kind.

    Attributes:
      times: how often they are run.
      size: sum of their results on one device, in bytes.
    """

    times: int
    size: int


def collectives(hlo: str) -> dict[str, Traffic]:
    """Returns the collectives of one run of a compiled program, by kind.

    A loop's body counts with the compiler's number of iterations; if it is unknown, once.

    Args:
      hlo: the program's text, from `compiled.as_text()`.
    """
    computations, entry = _computations(hlo)

    @functools.cache
    def total(name: str) -> dict[str, Traffic]:
        found: dict[str, Traffic] = {}
        for line in computations.get(name, ()):
            for kind, traffic, turns in _of_line(line, total):
                before = found.get(kind, Traffic(0, 0))
                found[kind] = Traffic(
                    before.times + turns * traffic.times, before.size + turns * traffic.size
                )
        return found

    return total(entry)


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation by name, and the name of the entry."""
    computations: dict[str, list[str]] = collections.defaultdict(list)
    name = entry = ""
    for line in hlo.splitlines():
        if not line.startswith(" ") and (header := _HEADER.match(line)):
            name = header[1]
            entry = name if line.startswith("ENTRY") else entry
        else:
            computations[name].append(line)
    return computations, entry


def _of_line(
    line: str, total: "functools._lru_cache_wrapper"
) -> Iterator[tuple[str, Traffic, int]]:
    """Yields kind, traffic and iterations of an instruction and of computations that it calls."""
    if found := _COLLECTIVE.search(line):
        yield found[2], Traffic(1, _size(found[1])), 1
        return
    turns = int(known[1]) if (known := _TURNS.search(line)) else 1
    for called in _CALLED.findall(line):
        for name in called.replace("%", "").split(", "):
            for kind, traffic in total(name).items():
                yield kind, traffic, turns


def _size(shapes: str) -> int:
    """Returns the bytes of a shape, or of a tuple of shapes."""
    bits = 0
    for dtype, axes in _SHAPE.findall(shapes):
        elements = 1
        for axis in filter(None, axes.split(",")):
            elements *= int(axis)
        width = re.search(r"\d+", dtype)
        bits += elements * (int(width[0]) if width else 8)  # pred
    return bits // 8
