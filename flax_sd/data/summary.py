"""The summary of the images that the trainer prints before step one."""

import collections
import itertools
from collections.abc import Sequence

from flax_sd.data.check import KINDS, Finding
from flax_sd.data.dataset import Images
from flax_sd.errors import shown

MAX_CAPTIONS = 3  # captions, enough to see that the right column was taken
MAX_FILES_OF_KIND = 8  # files of each harmless kind, the rest of which the page names
LETTERS = 120  # of a caption, enough to know it by
BRIEF_LETTERS = 50


def summary(images: Images, findings: Sequence[Finding]) -> str:
    """Returns the counts, three of the captions, and the findings, the worst first.

    Every image left out is named with its reason, and the first few of each other kind.
    """
    count = len(images)
    words = f", {many(captions(images), 'caption')}" if images.captioned else ""
    lines = [f"{shown(images.cfg.path)}: {many(count, 'image')}{words}", *sources(images)]
    quoted = min(MAX_CAPTIONS, count) if images.captioned else 0
    for i in (k * (count - 1) // max(1, quoted - 1) for k in range(quoted)):  # first, middle, last
        lines.append(f"  {images.names[i]}: {short(images.captions(i)[0])!r}")
    lines += _shapes(images) + _masks(images) + converted(images)
    for kind, group in itertools.groupby(findings, key=lambda finding: finding.kind):
        lines += _kind(kind, list(group))
    return "\n".join(lines)


def brief(images: Images, findings: Sequence[Finding]) -> str:
    """Returns a line of counts with a caption, and one for each image left out, with its reason."""
    said = [many(len(images), "image")]
    if images.captioned and len(images):
        first = short(images.captions(0)[0], BRIEF_LETTERS)
        said.append(f"{many(captions(images), 'caption')}, such as {first!r}")
    counts = collections.Counter(finding.kind for finding in findings)
    found = "; " + ", ".join(f"{kind} {n}" for kind, n in counts.items()) if counts else ""
    head = f"{shown(images.cfg.path)}: {', '.join(said)}{found}"
    left_out = [f"  {each.name}: {each.text}" for each in findings if each.kind == "left out"]
    return "\n".join([head, *_shapes(images), *_masks(images), *left_out])


def captions(images: Images) -> int:
    """Returns the number of captions of all images together."""
    return sum(len(images.captions(i)) for i in range(len(images)))


def sources(images: Images) -> list[str]:
    """Returns where the captions come from, if some are names of folders."""
    if not any(images.by_folder):
        return []
    named = sum(images.by_folder)
    return [f"captions: {captions(images) - named} from files, {named} from the folder's name"]


def converted(images: Images) -> list[str]:
    """Returns the number of images converted to sRGB, by their colours."""
    notes = [note for seen in images.seen for note in seen.notes if note.kind == "converted"]
    counts = collections.Counter(note.text for note in notes).most_common()
    return [f"{many(count, 'image')} converted {text}" for text, count in counts]


def many(number: int, noun: str) -> str:
    """Returns "1 image" or "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def short(caption: str, letters: int = LETTERS) -> str:
    """Returns the caption, shortened with an ellipsis if it is long."""
    return caption if len(caption) <= letters else f"{caption[: letters - 1].rstrip()}…"


def _shapes(images: Images) -> list[str]:
    """Returns the shapes that the images are trained at, if not one square."""
    if images.cfg.buckets == "none":
        return []
    counts = collections.Counter(images.shapes).most_common()
    shapes = ", ".join(f"{w} x {h} ({many(count, 'image')})" for (w, h), count in counts)
    cropped = sum(fit.cropped for fit in images.fits) / len(images)
    return [f"{many(len(counts), 'shape')}, {cropped:.1%} of the area cropped: {shapes}"]


def _masks(images: Images) -> list[str]:
    """Returns the share of the images' area that is trained on, if not all."""
    shares = [seen.mask.share for seen in images.seen if seen.mask]
    if images.cfg.mask == "none" or not shares:
        return []
    return [f"{many(len(shares), 'mask')}, {sum(shares) / len(shares):.1%} of their area white"]


def _kind(kind: str, found: Sequence[Finding]) -> list[str]:
    named = found if kind == "left out" else found[:MAX_FILES_OF_KIND]
    lines = [f"{kind} ({len(found)}): {KINDS[kind]}"]
    quoting = kind == "long caption"  # the page has the whole of it
    lines += [f"  {each.name}: {short(each.text) if quoting else each.text}" for each in named]
    if rest := len(found) - len(named):
        lines.append(f"  and {rest} more")
    return lines
