"""One look at each picture before the run: can it be used, and what should its owner know of it."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import buckets, images
from flax_sd.data.records import Record
from flax_sd.retry import FEW_PAUSES, PAUSES, patiently

PRINT = 64  # pixels; two pictures of one size that agree at 64 x 64 averages show the same


class Seen(NamedTuple):
    """What is known of a picture that was opened."""

    size: images.Size  # as it is used, upright
    turned: bool  # its EXIF orientation turned or mirrored it
    frames: int  # of which the first is used
    digest: str  # SHA-256 of its file
    shows: str  # alike for files that show the same, whatever their format and metadata


def read(record: Record, pauses: Sequence[int] = PAUSES) -> bytes:
    """Returns a picture's file, trying again after pauses while a network drive is away.

    Raises:
      BadPicture: it cannot be read.
    """
    try:
        return patiently(record.read, record.name, pauses)
    except FileNotFoundError as error:
        raise images.BadPicture(str(error.strerror).lower()) from error
    except OSError as error:
        raise images.BadPicture(f"cannot be read: {error.strerror or error}") from error


def look(record: Record, cfg: DataConfig) -> Seen | str:
    """Opens a picture as training will; or says why it cannot be used."""
    try:
        content = read(record, FEW_PAUSES)
        picture = images.decode(content, cfg.background)
        buckets.fit(cfg, picture.size)
        turned, frames = images.header(content)
    except images.BadPicture as error:
        return str(error)
    return Seen(picture.size, turned, frames, hashlib.sha256(content).hexdigest(), _print(picture))


def _print(picture: Image.Image) -> str:
    averages = picture.resize((PRINT, PRINT), Image.Resampling.BOX).tobytes()
    return hashlib.sha256(f"{picture.size}".encode() + averages).hexdigest()
