"""data_report.html: the findings about the images, with the images themselves."""

import collections
import contextlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from flax_sd.data.buckets import group_indices
from flax_sd.data.check import KINDS, Finding
from flax_sd.data.dataset import Images
from flax_sd.data.images.image_file import Size
from flax_sd.data.summary import captions, converted, many, short, sources
from flax_sd.errors import UserError
from flax_sd.reports import html

PICTURES = 24  # shown of each kind; every file is named
GLIMPSE = 0.15  # how much still shows, on grey, where a mask hides an image


def report_page(sets: Mapping[str, Images], findings: Mapping[str, Sequence[Finding]]) -> str:
    """Returns the page; both mappings are by option, as data.path."""
    parts = [
        f"<h2>{html.text(option)}: {html.text(images.cfg.path)}</h2>\n"
        + _set(images, findings[option])
        for option, images in sets.items()
    ]
    return html.document("The captioned images", "\n".join(parts))


def _set(images: Images, findings: Sequence[Finding]) -> str:
    words = f" and {many(captions(images), 'caption')}" if images.captioned else ""
    head = [f"{many(len(images), 'image')}{words} are used.", *sources(images)]
    head += [f"{line}." for line in converted(images)]
    parts = [*(f"<p>{html.text(line)}</p>" for line in head), _buckets(images), _sizes(images)]
    if not findings:
        parts.append("<p>Nothing is wrong with them.</p>")
    for kind, group in itertools.groupby(findings, key=lambda finding: finding.kind):
        parts.append(_kind(images, kind, list(group)))
    return "\n".join([*parts, _as_trained(images), _every(images)])


def _buckets(images: Images) -> str:
    """Returns the shapes that the images are trained at; nothing if that is the one square."""
    if images.cfg.buckets == "none":
        return ""
    rows: list[list[object]] = []
    for places in sorted(group_indices(images.shapes), key=len, reverse=True):
        cropped = sum(images.fits[i].cropped for i in places) / len(places)
        rows.append([_by(images.shapes[places[0]]), len(places), f"{cropped:.1%}"])
    return html.table(["bucket", "images", "left out of them, on average"], rows)


def _sizes(images: Images) -> str:
    """Returns the sizes of the images and how much of them is trained on."""
    counts = collections.Counter(zip((s.size for s in images.seen), images.fits, strict=True))
    rows: list[list[object]] = [
        [_by(size), count, _by(fit.shape), f"{fit.cropped:.0%}"]
        for (size, fit), count in counts.most_common(PICTURES)
    ]
    more = len(counts) - len(rows)
    rest = f'<p class="quiet">and {many(more, "further size")}</p>' if more else ""
    return html.table(["size", "images", "trained at", "left out of it"], rows) + rest


def _by(size: Size) -> str:
    return "{} x {}".format(*size)


def _kind(images: Images, kind: str, found: Sequence[Finding]) -> str:
    index = {name: i for i, name in enumerate(images.names)}
    shown = [
        html.figure(_original(images, index.get(each.name)), each.name, each.text)
        for each in found[:PICTURES]
    ]
    files = [f"<div>{html.text(f'{f.name}: {f.text}')}</div>" for f in found[PICTURES:]]
    rest = f'<div class="files">{"".join(files)}</div>' if files else ""
    title = f"<h3>{html.text(kind)} ({len(found)})</h3><p class=quiet>{html.text(KINDS[kind])}</p>"
    return f'{title}<div class="gallery">{"".join(shown)}</div>{rest}'


def _as_trained(images: Images) -> str:
    """Returns some images from the whole set, as the networks see them."""
    count, masked = min(PICTURES, len(images)), images.cfg.mask != "none"
    chosen = sorted({k * (len(images) - 1) // max(1, count - 1) for k in range(count)})
    figures = []
    for i in chosen:
        mask = images.seen[i].mask if masked else None
        share = [f"mask {mask.share:.0%} white"] if mask else []
        words = [_by(images.shapes[i]), *share, *map(short, images.captions(i)[:3])]
        figures.append(html.figure(_trained(images, i), images.names[i], " · ".join(words)))
    how = "" if images.cfg.center_crop else ", cropped here at one of the random offsets"
    how += ", grey where a mask hides them" if masked else ""
    title = f"<h3>As they are trained on</h3><p class=quiet>{many(len(chosen), 'image')}{how}"
    return f'{title}</p><div class="gallery">{"".join(figures)}</div>'


def _every(images: Images) -> str:
    """Returns a folded table of all images."""
    masked = images.cfg.mask != "none"
    head = ["image", "size", "trained at", "left out of it", *["white in its mask"] * masked]
    rows: list[list[object]] = []
    for name, seen, fit in zip(images.names, images.seen, images.fits, strict=True):
        shares = [f"{seen.mask.share:.0%}" if seen.mask else None] if masked else []
        rows.append([name, _by(seen.size), _by(fit.shape), f"{fit.cropped:.0%}", *shares])
    title = f"<summary>Every image ({len(rows)})</summary>"
    return f"<details>{title}{html.table(head, rows)}</details>"


def _original(images: Images, i: int | None) -> Image.Image | None:
    """Returns an image uncropped; None if it cannot be read."""
    if i is None:
        return None
    with contextlib.suppress(UserError):
        return images.original(i)
    return None


def _trained(images: Images, i: int) -> Image.Image | None:
    """Returns an image as it is trained on; None if it cannot be read any more."""
    with contextlib.suppress(UserError):
        transform = images.transforms(i)[0]
        pixels, mask = images.crop(i, transform), images.crop_mask(i, transform)
        if mask is not None:
            weights = np.maximum(mask, images.cfg.unmasked_weight)[..., None]
            pixels = pixels * (GLIMPSE + (1 - GLIMPSE) * weights)  # 0 is grey
        return Image.fromarray(np.round((pixels + 1) * 127.5).astype(np.uint8))
    return None
