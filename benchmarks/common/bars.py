"""A bar chart of ratios as SVG, drawn without a plotting library."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

LEFT, WIDTH, RIGHT = 300, 360, 60  # pixels for labels, bars and numbers
TOP, ROW, BAR = 40, 34, 12
SPAN = 3.0  # the ratio at which a bar ends; its number says how far it would go
# Greys and colours that can be read on white and on GitHub's dark page.
TEXT, TIME, MEMORY = "#7d8590", "#2f81f7", "#db8a2c"


class Bar(NamedTuple):
    """A label with its ratios, ours to torch's; memory may be unknown."""

    label: str
    time: float
    memory: float | None


def draw(bars: Sequence[Bar]) -> str:
    """The chart; a line marks where both are equal."""
    height, width = TOP + ROW * len(bars) + 10, LEFT + WIDTH + RIGHT
    equal = LEFT + WIDTH / SPAN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        _text(LEFT, 16, "time, flax_sd ÷ torch", TIME),
        _text(LEFT + 160, 16, "memory, flax_sd ÷ torch", MEMORY),
        *(part for i, bar in enumerate(bars) for part in _row(TOP + ROW * i, bar)),
        f'<path d="M{equal:.0f} {TOP - 14}V{height - 8}" stroke="{TEXT}" stroke-dasharray="3 3"/>',
        _text(equal, TOP - 6, "1", TEXT, "middle"),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _row(top: float, bar: Bar) -> list[str]:
    parts = [_text(LEFT - 8, top + BAR + 4, bar.label, TEXT, "end")]
    for place, (ratio, colour) in enumerate(((bar.time, TIME), (bar.memory, MEMORY))):
        if ratio is not None:
            y, length = top + place * (BAR + 1), WIDTH * min(ratio, SPAN) / SPAN
            shape = f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}"'
            parts.append(f'{shape} fill="{colour}"/>')
            parts.append(_text(LEFT + length + 4, y + BAR - 2, f"{ratio:.2f}", TEXT))
    return parts


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" fill="{colour}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"
