"""Converts colours from an image's profile to sRGB, which every network is trained on."""

import functools
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from flax_sd.data.images.file_metadata import MAX_UNPACKED

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # what a profile calls the modes of Pillow
CLASSES = ("mntr", "scnr", "prtr", "spac")  # of devices and spaces; others join two profiles
ALIKE = 2  # of 255; profiles of sRGB differ by the rounding of their curves
ALIKE_BY_NAME = 10  # where it is called sRGB, perhaps with a gamma of 2.2 for its curve
LONGEST_NAME = 60  # letters


class BadProfile(Exception):
    """A profile that cannot be used; the text is the reason."""


class Conversion(NamedTuple):
    """A conversion to sRGB."""

    name: str  # of the colours that it begins at
    transform: ImageCms.ImageCmsTransform | None  # None where they are sRGB's


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str | None]:
    """Returns an image as sRGB, and the name of its colour space if it was another.

    Args:
      image: of mode L, RGB or CMYK.

    Raises:
      BadProfile: it cannot be read, is of another mode, or makes no sense.
    """
    try:
        name, transform = _conversion(profile, image.mode)
        if transform is None:
            return image.convert("RGB"), None
        return _applied(transform, image), name
    except BadProfile:
        raise
    except Exception as error:  # a damaged profile may raise nearly anything
        raise BadProfile("its profile cannot be read") from error


@functools.lru_cache(maxsize=8)  # most images of a set share one
def _conversion(profile: bytes, mode: str) -> Conversion:
    if len(profile) > MAX_UNPACKED:
        raise BadProfile(f"its profile has {len(profile)} bytes")
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    core: Any = opened.profile
    name, space = _name(core.profile_description), core.xcolor_space.strip()
    if core.device_class not in CLASSES:
        raise BadProfile(f"its profile is not for images: {core.device_class!r}")
    # Programs that make an image grey often leave the profile of sRGB with it.
    seen_as = "RGB" if (mode, space) == ("L", "RGB") else mode
    if space != SPACES[seen_as]:
        raise BadProfile(_misfit(space, mode))
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(opened, srgb, seen_as, "RGB")
    if _probe(transform, seen_as) <= (ALIKE_BY_NAME if "srgb" in name.lower() else ALIKE):
        return Conversion(name, None)
    if seen_as != mode:
        raise BadProfile(_misfit(space, mode))
    return Conversion(name, transform)


def _misfit(space: str, mode: str) -> str:
    return f"its profile is for {space} and its pixels are {SPACES[mode]}".replace("GRAY", "grey")


def _name(description: str | None) -> str:
    """Returns a profile's own name, safe to print."""
    told = (description or "").strip()[:LONGEST_NAME]
    name = "".join(letter if letter.isprintable() else "?" for letter in told)
    return name or "a profile without a name"


def _probe(transform: ImageCms.ImageCmsTransform, mode: str) -> float:
    """Returns the largest change of a colour, of 255.

    Raises:
      BadProfile: white comes out dark, or black as light as white.
    """
    channels, ink = len(mode) if mode != "L" else 1, mode == "CMYK"
    ends = np.array([[0], [255]], np.uint8).repeat(channels, 1)
    steps = np.linspace(0, 255, 256 if channels == 1 else 18).round().astype(np.uint8)
    probes = ends
    if not ink:
        lattice = np.stack(np.meshgrid(*[steps] * channels), -1).reshape(-1, channels)
        probes = np.concatenate([ends, lattice])
    image = Image.frombytes(mode, (len(probes), 1), probes.tobytes())
    shown = np.asarray(_applied(transform, image))[0].astype(int)
    black, white = (shown[1], shown[0]) if ink else (shown[0], shown[1])
    if white.min() < 128 or white.mean() - black.mean() < 64:
        raise BadProfile("its profile makes no sense: it would show white as dark")
    return np.inf if ink else float(np.abs(shown - probes).max())


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = Image.new("RGB", image.size)
    transform.apply(image, converted)
    converted.info.clear()  # of the profile
    return converted
