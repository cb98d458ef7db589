"""Line charts in a page, drawn by the bundled uPlot: values under the pointer, zoom, log axes."""

import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flax_sd.reports.html import embedded

UPLOT = pathlib.Path(__file__).parents[1] / "bundled" / "uplot"
WEB = pathlib.Path(__file__).parent / "web"
DIGITS = 5  # that count of a number on the page
Number = int | float


class Line(NamedTuple):
    """One line of a chart, with x in rising order.

    Attributes:
      y: as many as x; None where there is nothing.
      band: the lower and the upper edge of what is drawn pale around it.
      colour: number of one of the page's colours.
      strength: how much of the colour is seen, above 0 and up to 1.
      dots: points that no line joins.
    """

    label: str
    x: Sequence[Number]
    y: Sequence[Number | None]
    band: tuple[Sequence[Number | None], Sequence[Number | None]] | None = None
    colour: int = 0
    strength: float = 1.0
    dots: bool = False


class Chart(NamedTuple):
    """Lines over one axis.

    Attributes:
      note: what one has to know to read it.
      across: what x counts.
      log: begins with a logarithmic axis; readers change it.
      wide: takes a row of the page for itself.
    """

    title: str
    lines: Sequence[Line]
    note: str = ""
    across: str = "step"
    log: bool = False
    wide: bool = False


def head() -> str:
    """Returns the head of a page with charts: the library, with its notice, and our scripts."""
    notice = (UPLOT / "LICENSE").read_text("utf-8").strip()
    style = (UPLOT / "uPlot.min.css").read_text("utf-8")
    library = (UPLOT / "uPlot.iife.min.js").read_text("utf-8")
    return (
        f"<style>{style}</style>\n<script>\n/* uPlot:\n{notice}\n*/\n{library}</script>\n"
        f"<script>\n{(WEB / 'charts.js').read_text('utf-8')}</script>\n"
    )


def charts(shown: Iterable[Chart]) -> str:
    """Returns the charts, side by side if there is room, without those that have no line."""
    filled = [chart for chart in shown if any(line.x for line in chart.lines)]
    return f'<div class="charts">{"".join(_element(chart) for chart in filled)}</div>'


def _element(chart: Chart) -> str:
    wide = " wide" if chart.wide else ""
    lines = [_plain(line) for line in chart.lines if line.x]
    shown = embedded({**chart._asdict(), "lines": lines, "text": in_words(chart)})
    return f'<div class="chart{wide}">{shown}</div>'


def in_words(chart: Chart) -> str:
    """Returns what the chart shows, for those who do not see it."""
    told = [said for line in chart.lines if (said := _told(line, chart.across))]
    return f"{chart.title}. {' '.join(told)}".strip()


def _told(line: Line, across: str) -> str:
    points = [(x, y) for x, y in zip(line.x, _short(line.y), strict=True) if y is not None]
    if not points:
        return ""
    (start, first), (end, last) = points[0], points[-1]
    place, least = min(points, key=lambda point: point[1])
    if len(points) == 1:
        return f"{line.label}: {first} at {across} {start}."
    return (
        f"{line.label}: {len(points)} values, from {first} at {across} {start} "
        f"to {last} at {across} {end}; the lowest is {least} at {across} {place}."
    )


def _plain(line: Line) -> dict[str, object]:
    """Returns the line with its numbers shortened to the visible digits."""
    low, high = line.band or ((), ())
    return {
        **line._asdict(),
        "x": _short(line.x),
        "y": _short(line.y),
        "band": None if line.band is None else [_short(low), _short(high)],
    }


def _short(values: Sequence[Number | None]) -> list[Number | None]:
    return [
        None if value is None or not math.isfinite(value) else _rounded(value) for value in values
    ]


def _rounded(value: Number) -> Number:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
