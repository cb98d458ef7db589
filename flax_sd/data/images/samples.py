"""What a file's numbers are: 8-bit grey, RGB or CMYK, and how opaque each pixel is."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile


class BadImage(Exception):
    """An image that cannot be used; the text is the reason."""


class Samples(NamedTuple):
    """The raw numbers in an image file."""

    colours: Image.Image  # L, RGB or CMYK
    alpha: Image.Image | None  # L, 255 where it is opaque; None without transparency
    guess: str | None = None  # what its numbers were taken for where the file does not say it


def load(image: ImageFile.ImageFile) -> Samples:
    """Unpacks an image that was opened but not loaded.

    Raises:
      BadImage: its numbers have no agreed range.
    """
    tile = image.tile[0] if image.tile else None  # says what Pillow forgets once it is loaded
    image.load()
    if image.mode == "F":
        raise BadImage("32-bit float pixels have no agreed range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _integers(image)
    if image.format == "PNG" and tile is not None:
        _scale_transparency(image, str(tile[3]))
    found = _eight_bits(image)
    if image.format == "GIF" and tile is not None and tile[1] != (0, 0, *image.size):
        inside = Image.new("L", image.size)
        inside.paste(found.alpha.crop(tile[1]) if found.alpha else 255, tile[1])
        return found._replace(alpha=inside)  # browsers show nothing outside of the first frame
    return found


def _eight_bits(image: Image.Image) -> Samples:
    if image.mode == "La":
        image = image.convert("LA")  # which Pillow's way from La to RGBA would lose
    if image.mode == "LA":
        return Samples(image.getchannel("L"), image.getchannel("A"))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Samples(rgba.convert("RGB"), rgba.getchannel("A"))
    if image.mode == "1":
        image = image.convert("L")
    return Samples(image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB"), None)


def _scale_transparency(image: Image.Image, packed: str) -> None:
    """Scales a PNG's transparent colour, which has the file's bits, to the 8 that Pillow
    compares."""
    key = image.info.get("transparency")
    if packed in ("L;2", "L;4") and isinstance(key, int):
        most = 3 if packed == "L;2" else 15
        image.info["transparency"] = (key & most) * 255 // most
    if packed == "RGB;16B" and isinstance(key, tuple):
        image.info["transparency"] = tuple(each >> 8 for each in key)


def _integers(image: Image.Image) -> Samples:
    """Returns integers of more than 8 bits, which Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})  # of TIFF
    (bits, *_), (kind, *_) = tags.get(258, (32,)), tags.get(339, (1,))
    if image.mode != "I" or image.format in ("PNG", "PPM", "JPEG2000"):
        top, guess = 2 ** (12 if bits == 12 else 16) - 1, None
    else:
        top, guess = _range(values, bits, signed=kind == 2)
    grey = np.round(values * 255 / top).astype(np.uint8)
    if tags.get(262) == 0:  # white is zero, which Pillow heeds up to 8 bits
        grey = 255 - grey
    key = image.info.get("transparency")
    alpha = Image.fromarray(np.uint8(255) * (values != key)) if isinstance(key, int) else None
    return Samples(Image.fromarray(grey), alpha, guess)


def _range(values: np.ndarray, bits: int, *, signed: bool) -> tuple[int, str | None]:
    """Returns the value of white where the type does not define it, guessed from common programs.

    They keep pixels of 8 or 16 bits in integers of 32; those of 16 with a sign end at 32767.
    """
    name, most = f"{'signed ' if signed else ''}{bits}-bit integer pixels", int(values.max())
    top = 255 if most <= 255 else 32767 if bits == 16 else 65535
    if values.min() < 0 or most > top:
        raise BadImage(f"{name} from {values.min()} to {most}: save it with 8 or 16 bits")
    return top, f"{name} up to {most}, read as 0 to {top}"
