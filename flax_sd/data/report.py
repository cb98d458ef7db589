"""What the trainer prints about its pictures before step one."""

import itertools
from collections.abc import Sequence

from flax_sd.data.check import KINDS, Finding
from flax_sd.data.pictures import Pictures

SHOWN = 3  # captions, enough to see that the right column was taken
NAMED = 8  # files of each harmless kind, the rest of which the page names


def summary(pictures: Pictures, findings: Sequence[Finding]) -> str:
    """Returns the counts, three of the captions, and what was found, the worst first.

    Every picture left out is named with its reason, and the first few of each other kind.
    """
    count = len(pictures)
    captions = sum(len(pictures.captions(i)) for i in range(count))
    lines = [f"{pictures.cfg.path}: {many(count, 'picture')}, {many(captions, 'caption')}"]
    shown = min(SHOWN, count)
    for i in (k * (count - 1) // max(1, shown - 1) for k in range(shown)):  # first, middle, last
        lines.append(f"  {pictures.names[i]}: {pictures.captions(i)[0]!r}")
    for kind, group in itertools.groupby(findings, key=lambda finding: finding.kind):
        lines += _kind(kind, list(group))
    return "\n".join(lines)


def many(number: int, noun: str) -> str:
    """Returns "1 picture" or "2 pictures"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _kind(kind: str, found: Sequence[Finding]) -> list[str]:
    named = found if kind == "left out" else found[:NAMED]
    lines = [f"{kind} ({len(found)}): {KINDS[kind]}"]
    lines += [f"  {each.name}: {each.text}" for each in named]
    if rest := len(found) - len(named):
        lines.append(f"  and {rest} more")
    return lines
