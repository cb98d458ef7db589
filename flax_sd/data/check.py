"""Findings about a data set, reported before a run."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from flax_sd.data import masks
from flax_sd.data.dataset import Images

ENLARGED, CROPPED = 1.5, 0.3  # reported from these on: times, and share of the image

# Each kind of finding, the worst first, with what it means and what helps.
KINDS = {
    "left out": "cannot be used, and training goes on without it",
    "in two sets": "trained on and held out: the held-out loss says too little about new images",
    "black mask": "has a mask that is black everywhere, which leaves nothing to learn",
    "no mask": "has no mask, so that the whole image is trained on",
    "duplicate": "shows the same as another, which then counts twice: remove one, or keep both "
    "if that is meant",
    "empty caption": "is trained on without words, as guidance's empty prompt: write a caption",
    "long caption": "has more tokens than data.max_token_length: shorten it, or raise that, to 225 "
    "at most",
    "small": f"is enlarged {ENLARGED} times or more, and blurred by that: find a larger one",
    "cropped": f"loses {CROPPED:.0%} of its area or more to the shape that it is trained in",
    "unknown orientation": "has a damaged orientation tag, and is used as it is stored",
    "unknown colours": "has a colour profile that cannot be used: its colours are taken for sRGB",
    "guessed range": "does not say which of its numbers is white: see whether it looks right",
    "converted": "is converted to sRGB from the colours that its profile names",
    "turned": "is used upright, as its EXIF orientation says",
    "animated": "has several frames, of which the first is used",
    "unused": "is in the folder but is not part of the set",
}


class Finding(NamedTuple):
    """One remark about one file."""

    kind: str  # of KINDS
    name: str
    text: str


def check(images: Images, cut_off: Callable[[str], str] | None) -> list[Finding]:
    """Returns the findings about a set, in the order of KINDS.

    Args:
      cut_off: returns the text of a caption that the text encoder does not read; None where
        nothing reads captions.
    """
    found = [Finding("left out", *bad) for bad in images.bad]
    found += _duplicates(images)
    for i, name in enumerate(images.names):
        if cut_off is not None:
            found += _captions(name, images.captions(i), cut_off)
        found += _image(images, i)
        found += _mask(images, i)
    found += [Finding("unused", *unused) for unused in images.unused]
    spare = [name for name, n in zip(images.names, images.repeats, strict=True) if not n]
    found += [Finding("unused", name, "an epoch has enough others of the class") for name in spare]
    return sort_findings(found)


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Sorts the findings by KINDS, keeping their order within each kind."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def duplicates_across(images: Images, others: Images) -> list[Finding]:
    """Returns a finding for each of `others` that shows the same as one of `images`."""
    by_content = dict(zip((s.shows for s in images.seen), images.names, strict=True))
    pairs = zip(others.names, others.seen, strict=True)
    return [
        Finding("in two sets", name, f"shows the same as {by_content[seen.shows]}")
        for name, seen in pairs
        if seen.shows in by_content
    ]


def _duplicates(images: Images) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for i, (name, seen) in enumerate(zip(images.names, images.seen, strict=True)):
        other = first.setdefault(seen.shows, i)
        if other == i:
            continue
        same = seen.digest == images.seen[other].digest
        how = "is the same file as" if same else "shows the same as"
        words = "the same" if images.captions(i) == images.captions(other) else "other"
        captions = f", with {words} captions" if images.captioned else ""
        yield Finding("duplicate", name, f"{how} {images.names[other]}{captions}")


def _captions(
    name: str, captions: Sequence[str], cut_off: Callable[[str], str]
) -> Iterator[Finding]:
    for caption in captions:
        if not caption.strip():
            yield Finding("empty caption", name, "the caption is empty")
        elif tail := cut_off(caption):
            yield Finding("long caption", name, f"not read: {tail!r}")


def _mask(images: Images, i: int) -> Iterator[Finding]:
    how, mask, name = images.cfg.mask, images.seen[i].mask, images.names[i]
    if how == "none":
        return
    in_file = how == "file"
    if mask is None:
        beside = masks.mask_path(pathlib.Path(name)).name
        text = f"{beside} is not beside it" if in_file else "it has no transparency"
        yield Finding("no mask", name, text)
    elif mask.share == 0:
        yield Finding("black mask", name, f"{'black' if in_file else 'transparent'} everywhere")


def _image(images: Images, i: int) -> Iterator[Finding]:
    name, seen, fit = images.names[i], images.seen[i], images.fits[i]
    (width, height), times = seen.size, min(fit.resized) / min(seen.size)
    if times >= ENLARGED:
        text = f"{width} x {height} pixels, enlarged {times:.1f} times"
        yield Finding("small", name, text)
    if fit.cropped >= CROPPED:
        text = f"{width} x {height} pixels, of which {fit.cropped:.0%} is left out each time"
        yield Finding("cropped", name, text)
    yield from (Finding(kind, name, text) for kind, text in seen.notes)
    if seen.turned:
        yield Finding("turned", name, f"{width} x {height} pixels once upright")
    if seen.frames > 1:
        yield Finding("animated", name, f"{seen.frames} frames")
