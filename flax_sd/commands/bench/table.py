"""The rows of the table: ours beside diffusers', and by how much one wins."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax_sd.commands.bench.starts import Figures

EQUAL = 0.02  # of each other, as far as two figures may differ and count as equal
HEAD = "", "flax_sd", "diffusers", "flax_sd is"
WORDS = {  # of a unit: which way a larger figure of ours is, and a smaller one
    "s": ("slower", "faster"),
    "per s": ("faster", "slower"),
    "GiB": ("more", "less"),
}


class Row(NamedTuple):
    """A figure of both sides; None where a side has none."""

    name: str
    unit: str
    ours: float | None
    theirs: float | None
    our_cpu: float | None = None
    their_cpu: float | None = None

    def cells(self) -> list[str]:
        """Returns the row as it is printed."""
        return [
            f"{self.name}, {self.unit}",
            *(shown(self.ours, self.our_cpu), shown(self.theirs, self.their_cpu)),
            comparison(self.ours, self.theirs, self.unit),
        ]

    def record(self) -> dict[str, Any]:
        """Returns the row for a file, with the names of the table's columns."""
        name, *_, compared = self.cells()
        cpu = {"flax_sd, CPU s": self.our_cpu, "diffusers, CPU s": self.their_cpu}
        figures = {"flax_sd": self.ours, "diffusers": self.theirs, **cpu}
        return {"work": name, **{key: _blank(value) for key, value in figures.items()}} | {
            HEAD[-1]: compared
        }


def rows(
    names: tuple[str, str], size: int, cold: Figures, warm: Figures, theirs: Figures | None
) -> list[Row]:
    """Returns the rows of a case.

    Args:
      names: what the first run is called, and what is counted in a second.
      size: of what is counted, in a run.
      theirs: of diffusers, which has nothing to compile: it stands beside cold and warm.
    """
    first, counted = names
    start, cpu, peak = (theirs.first, theirs.cpu, theirs.peak) if theirs else (None,) * 3
    return [
        Row(f"{first}, cold", "s", cold.first, start, cold.cpu, cpu),
        Row(f"{first}, warm", "s", warm.first, start, warm.cpu, cpu),
        Row(counted, "per s", _rate(size, warm), _rate(size, theirs)),
        Row(f"peak memory, {counted}", "GiB", warm.peak, peak),
    ]


def _rate(size: int, figures: Figures | None) -> float | None:
    return size / figures.again if figures and figures.again else None


def comparison(ours: float | None, theirs: float | None, unit: str) -> str:
    """Returns what ours is beside theirs, as "3.1x slower"; "" if one is unknown."""
    if not ours or not theirs:
        return ""
    larger, smaller = WORDS[unit]
    ratio, word = (ours / theirs, larger) if ours > theirs else (theirs / ours, smaller)
    if ratio <= 1 + EQUAL:
        return "equal"
    return f"{ratio:.2f}x {word}" if ratio < 10 else f"{ratio:.0f}x {word}"


def shown(value: float | None, cpu: float | None) -> str:
    """Returns a figure with its CPU seconds behind it, if it has any."""
    if value is None:
        return "–"
    return number(value) + (f" (CPU {number(cpu)})" if cpu is not None else "")


def number(value: float) -> str:
    """Returns about three digits; whole numbers in full."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.0e}"


def _blank(value: float | None) -> float | str:
    return "" if value is None else value


def padded(lines: Sequence[Row]) -> list[list[str]]:
    """Returns the whole table."""
    return [[*HEAD], *(line.cells() for line in lines)]
