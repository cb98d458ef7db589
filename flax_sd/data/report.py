"""What the trainer prints about its pictures before step one."""

from flax_sd.data.pictures import Pictures

SHOWN = 3  # captions, enough to see that the right column was taken


def summary(pictures: Pictures) -> str:
    """Returns the counts, three of the captions, and every picture left out with the reason."""
    count = len(pictures)
    captions = sum(len(pictures.captions(i)) for i in range(count))
    lines = [f"{pictures.cfg.path}: {_many(count, 'picture')}, {_many(captions, 'caption')}"]
    shown = min(SHOWN, count)
    for i in (k * (count - 1) // max(1, shown - 1) for k in range(shown)):  # first, middle, last
        lines.append(f"  {pictures.names[i]}: {pictures.captions(i)[0]!r}")
    if pictures.bad:
        lines.append(f"left out, because they cannot be used ({len(pictures.bad)}):")
        lines += [f"  {name}: {reason}" for name, reason in pictures.bad]
    return "\n".join(lines)


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
