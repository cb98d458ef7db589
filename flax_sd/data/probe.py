"""Opens each image once before the run, to see whether it can be used."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import buckets
from flax_sd.data.images import image_file
from flax_sd.data.sources.records import Record
from flax_sd.files.retry import FEW_PAUSES, PAUSES, with_retries

PRINT = 64  # pixels; two images of one size that agree at 64 x 64 averages show the same


class Mask(NamedTuple):
    """The known facts of an image's mask."""

    share: float  # its mean, from 0 (black) to 1 (white)
    digest: str  # SHA-256 of its values


class Seen(NamedTuple):
    """The known facts of an image that was opened."""

    size: image_file.Size  # as it is used, upright
    turned: bool  # its orientation turned or mirrored it
    frames: int  # of which the first is used
    digest: str  # SHA-256 of its file
    shows: str  # alike for files that show the same, whatever their format and metadata
    mask: Mask | None = None  # None where data.mask finds none
    notes: tuple[image_file.Note, ...] = ()  # on how its metadata was read


def read(record: Record, pauses: Sequence[int] = PAUSES) -> bytes:
    """Returns an image's file, retrying after pauses while a network drive is away.

    Raises:
      BadImage: it cannot be read.
    """
    try:
        return with_retries(record.read, record.name, pauses)
    except FileNotFoundError as error:
        raise image_file.BadImage(str(error.strerror).lower()) from error
    except OSError as error:
        raise image_file.BadImage(f"cannot be read: {error.strerror or error}") from error


def open_mask(
    record: Record, cfg: DataConfig, pauses: Sequence[int] = PAUSES
) -> Image.Image | None:
    """Returns an image's mask as L, white where it is trained on; None if it has none.

    Raises:
      BadImage: it cannot be read.
    """
    if cfg.mask == "alpha":
        return image_file.alpha(read(record, pauses))
    if cfg.mask == "none" or record.mask is None:
        return None
    name = record.mask.name
    try:
        content = read(record._replace(name=name, read=record.mask.read_bytes), pauses)
        return image_file.mask(content)
    except image_file.BadImage as error:
        raise image_file.BadImage(f"its mask {name}: {error}") from error


def look(record: Record, cfg: DataConfig) -> Seen | str:
    """Opens an image as training will; or returns why it cannot be used."""
    try:
        content = read(record, FEW_PAUSES)
        image, turned, frames, notes = image_file.read(content, cfg.background)
        buckets.fit(cfg, image.size)
        mask = _look_at_mask(record, cfg, image.size)
    except image_file.BadImage as error:
        return str(error)
    digest = hashlib.sha256(content).hexdigest()
    return Seen(image.size, turned, frames, digest, _print(image), mask, notes)


def _look_at_mask(record: Record, cfg: DataConfig, size: image_file.Size) -> Mask | None:
    """Returns the mask of an image of that size."""
    mask = open_mask(record, cfg, FEW_PAUSES)
    if mask is None:
        return None
    if mask.size != size:
        own, images = ("{} x {}".format(*pair) for pair in (mask.size, size))
        raise image_file.BadImage(f"its mask has {own} pixels and it has {images}: make them alike")
    share = float(np.asarray(mask).mean() / 255)
    return Mask(share, hashlib.sha256(mask.tobytes()).hexdigest())


def _print(image: Image.Image) -> str:
    averages = image.resize((PRINT, PRINT), Image.Resampling.BOX).tobytes()
    return hashlib.sha256(f"{image.size}".encode() + averages).hexdigest()
