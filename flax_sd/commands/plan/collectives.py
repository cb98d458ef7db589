"""What devices send one another: the collective operations in a compiled program's text."""

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
      times: how many are run.
      size: bytes of their results on one device, summed.
    """

    times: int
    size: int


def collectives(hlo: str) -> dict[str, Traffic]:
    """The collectives that one run of a compiled program makes, by kind.

    A loop's body counts as often as the compiler knows that it is run, otherwise once.

    Args:
      hlo: the program's text, as `compiled.as_text()` gives it.
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
    """The lines of each computation by its name, and the name of the first to run."""
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
    """Kind, traffic and turns: of the instruction itself and of the computations it calls."""
    if found := _COLLECTIVE.search(line):
        yield found[2], Traffic(1, _size(found[1])), 1
        return
    turns = int(known[1]) if (known := _TURNS.search(line)) else 1
    for called in _CALLED.findall(line):
        for name in called.replace("%", "").split(", "):
            for kind, traffic in total(name).items():
                yield kind, traffic, turns


def _size(shapes: str) -> int:
    """Bytes of a shape, or of a tuple of them."""
    bits = 0
    for dtype, axes in _SHAPE.findall(shapes):
        elements = 1
        for axis in filter(None, axes.split(",")):
            elements *= int(axis)
        width = re.search(r"\d+", dtype)
        bits += elements * (int(width[0]) if width else 8)  # pred
    return bits // 8
