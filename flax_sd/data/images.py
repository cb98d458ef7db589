"""One picture: from the bytes of a file to float32 pixels in [-1, 1], channels last."""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Pillow warns of big photographs (90 megapixels) long before it refuses a bomb (twice that).
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Size = tuple[int, int]  # width and height in pixels
MAX_PIXELS = 2 * 89_478_485  # where Pillow refuses a picture; also the limit after resizing


class BadPicture(Exception):
    """A picture that cannot be used; the text is the reason."""


class Fit(NamedTuple):
    """How a picture comes to its shape: it is resized, and what stands out is cut off."""

    resized: Size
    shape: Size

    @property
    def cropped(self) -> float:
        """The share of the picture's area that is cut off."""
        return 1 - math.prod(self.shape) / math.prod(self.resized)


class Draw(NamedTuple):
    """What one sample draws, as uniform 64-bit numbers: a pure function of (seed, sample)."""

    caption: int
    flip: int
    top: int
    left: int


def draw(seed: int, sample: int) -> Draw:
    """Draws for sample number `sample` of the stream; raw Philox, so alike in every NumPy."""
    return Draw(*np.random.Philox(key=[seed, sample]).random_raw(4).tolist())


def decode(data: bytes, background: str) -> Image.Image:
    """Returns the picture upright, as RGB, with `background` under what is transparent.

    Raises:
      BadPicture: the bytes are no picture, are cut off or damaged, or too many when unpacked.
    """
    with _opened(data) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), background)


def alpha(data: bytes) -> Image.Image | None:
    """Returns how opaque the picture is, upright, as L; None where it has no transparency.

    Raises:
      BadPicture: as `decode`.
    """
    with _opened(data) as image:
        image.load()
        if not image.has_transparency_data:
            return None
        return ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")


def header(data: bytes) -> tuple[bool, int]:
    """Returns whether EXIF turns or mirrors the picture, and how many frames it has.

    Raises:
      BadPicture: as `decode`.
    """
    with _opened(data) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation in range(2, 9), getattr(image, "n_frames", 1)


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError as error:
        empty = "the file is empty" if not data else "not a picture that Pillow can read"
        raise BadPicture(empty) from error
    except Image.DecompressionBombError as error:
        raise BadPicture(f"decompression bomb: {error}") from error
    except BadPicture:
        raise
    except Exception as error:  # a damaged file may raise nearly anything in Pillow's decoders
        raise BadPicture(f"damaged: {error or type(error).__name__}") from error


def _to_rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode == "F":
        raise BadPicture("32-bit float pixels have no agreed range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Scales 0…65535 to 0…255; Pillow's own conversion clips at 255 instead."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadPicture("32-bit integer pixels: save it with 8 or 16 bits")
    return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")


def resized(size: Size, resolution: int) -> Size:
    """Returns (width, height) with the shorter side at `resolution`, as torchvision rounds it.

    Raises:
      BadPicture: so long and narrow that the longer side would not fit in memory.
    """
    short, long = min(size), max(size)
    scaled = int(resolution * long / short)
    if scaled * resolution > MAX_PIXELS:
        raise _too_narrow(size, "a square")
    return (resolution, scaled) if size[0] <= size[1] else (scaled, resolution)


def cover(size: Size, shape: Size) -> Fit:
    """Returns the fit of a picture that is resized to cover a shape, rounded as sd-scripts does.

    Raises:
      BadPicture: as `resized`.
    """
    (width, height), (w, h) = size, shape
    if width * h > height * w:  # the picture is wider, and keeps its height
        covering = (int(width * h / height + 0.5), h)
    else:
        covering = (w, int(height * w / width + 0.5))
    if math.prod(covering) > MAX_PIXELS:
        raise _too_narrow(size, f"{w} x {h}")
    return Fit(covering, shape)


def _too_narrow(size: Size, shape: str) -> BadPicture:
    return BadPicture(f"{size[0]} x {size[1]} pixels: too narrow to cut {shape} from")


def to_pixels(
    image: Image.Image,
    fit: Fit,
    draw: Draw,
    *,
    interpolation: str = "lanczos",
    center_crop: bool,
    random_flip: bool,
) -> Float[np.ndarray, "h w *c"]:
    """Resizes and crops as `fit` says, at a place that is drawn or the middle; perhaps mirrors.

    Args:
      image: of mode RGB, or L, which has no axis of channels.
      interpolation: one of Pillow's resampling filters, in lower case.
    """
    filtered = Image.Resampling[interpolation.upper()]
    image, (width, height) = image.resize(fit.resized, filtered), fit.shape
    spare_x, spare_y = image.width - width, image.height - height
    if center_crop:
        left, top = round(spare_x / 2), round(spare_y / 2)
    else:
        left, top = draw.left % (spare_x + 1), draw.top % (spare_y + 1)
    image = image.crop((left, top, left + width, top + height))
    if random_flip and draw.flip % 2:
        image = ImageOps.mirror(image)
    return np.asarray(image, np.float32) / 127.5 - 1
