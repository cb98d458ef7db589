"""One image: from the bytes of a file to pixels in the size that it is trained at."""

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from flax_sd.data.images import colours, file_metadata, samples, tags
from flax_sd.data.images.samples import BadImage
from flax_sd.files import file_kind

# Pillow warns of big photographs (90 megapixels) long before it refuses a bomb (twice that).
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Size = tuple[int, int]  # width and height in pixels
MAX_PIXELS = 2 * 89_478_485  # where Pillow refuses an image; also the limit after resizing

TURNS = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Fit(NamedTuple):
    """The size that an image is resized to, and the shape that it is then cropped to."""

    resized: Size
    shape: Size

    @property
    def cropped(self) -> float:
        """The fraction of the resized image's area that is cropped away."""
        return 1 - math.prod(self.shape) / math.prod(self.resized)


class Draw(NamedTuple):
    """The random 64-bit numbers of one sample: a pure function of (seed, sample)."""

    caption: int
    flip: int
    top: int
    left: int


def draw(seed: int, sample: int) -> Draw:
    """Draws for sample number `sample` of the stream; raw Philox, the same in every NumPy."""
    return Draw(*np.random.Philox(key=[seed, sample]).random_raw(4).tolist())


class Note(NamedTuple):
    """A remark for the owner of an image about how its file was read."""

    kind: str  # of flax_sd.data.check.KINDS
    text: str


class Read(NamedTuple):
    """A decoded image, ready to use."""

    image: Image.Image  # upright, RGB
    turned: bool  # its orientation turned or mirrored it
    frames: int  # of which this is the first
    notes: tuple[Note, ...]


def decode(data: bytes, background: str) -> Image.Image:
    """Returns the image upright, as sRGB, with `background` under what is transparent.

    Raises:
      BadImage: the bytes are no image, are cut off or damaged, or too many when unpacked.
    """
    return read(data, background).image


def read(data: bytes, background: str) -> Read:
    """Decodes the image as `decode` does, and returns what its metadata said.

    Raises:
      BadImage: as `decode`.
    """
    parts = file_metadata.split(data)
    with _opened(parts.pixels) as image:
        frames = parts.frames or getattr(image, "n_frames", 1)
        found = samples.load(image)
        way, notes = _orientation(parts, image)
    profile = image.info.get("icc_profile") if parts.profile is None else parts.profile
    if found.guess is not None:
        notes.append(Note("guessed range", found.guess))
    shown = _over(_to_srgb(found.colours, profile, notes), found.alpha, background)
    return Read(_upright(shown, way), way in TURNS, frames, tuple(notes))


def alpha(data: bytes) -> Image.Image | None:
    """Returns the opacity of the image, upright, as L; None if it has no transparency.

    Raises:
      BadImage: as `decode`.
    """
    found, way = _loaded(data)
    return None if found.alpha is None else _upright(found.alpha, way)


def mask(data: bytes) -> Image.Image:
    """Returns the image upright, as L; its numbers are no colours, so no profile changes them.

    Raises:
      BadImage: as `decode`.
    """
    found, way = _loaded(data)
    return _upright(_over(found.colours.convert("RGB"), found.alpha, "black").convert("L"), way)


def _loaded(data: bytes) -> tuple[samples.Samples, int]:
    """Loads the image of the file, and its orientation."""
    parts = file_metadata.split(data)
    with _opened(parts.pixels) as image:
        return samples.load(image), _orientation(parts, image)[0]


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError as error:
        raise BadImage(_why_unidentified(data)) from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"decompression bomb: {error}") from error
    except BadImage:
        raise
    except Exception as error:  # a damaged file may raise nearly anything in Pillow's decoders
        raise BadImage(f"damaged: {error or type(error).__name__}") from error


def _why_unidentified(data: bytes) -> str:
    if not data:
        return "the file is empty"
    found = file_kind.kind_of(data[: file_kind.BEGINNING])
    return f"not an image but {found}" if found else "not an image that Pillow can read"


def _orientation(parts: file_metadata.Parts, image: Image.Image) -> tuple[int, list[Note]]:
    """Returns EXIF's orientation, or else that of XMP; 1 if neither can be read."""
    exif, problem = parts.exif or image.info.get("exif", b""), None
    try:
        way = tags.orientation(re.sub(rb"^(Exif\0\0){1,2}", b"", exif)) if exif else None
    except ValueError as error:
        way, problem = None, error
    if way is None and (found := re.search(rb'tiff:Orientation(?:="|>)([1-8])', parts.xmp)):
        way = int(found[1])
    if way is None and problem is not None:
        return 1, [Note("unknown orientation", f"its EXIF cannot be read: {problem}")]
    return way or 1, []


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[Note]) -> Image.Image:
    """Converts the colours to RGB, unchanged if their profile is unusable; notes what was done."""
    if profile is None:
        return image.convert("RGB")
    try:
        converted, name = colours.to_srgb(image, profile)
    except colours.BadProfile as error:
        notes.append(Note("unknown colours", str(error)))
        return image.convert("RGB")
    if name is not None:
        notes.append(Note("converted", f"from {name} to sRGB"))
    return converted


def _over(image: Image.Image, alpha: Image.Image | None, background: str) -> Image.Image:
    """Composites the image over a colour."""
    if alpha is None:
        return image
    over = image.convert("RGBA")
    over.putalpha(alpha)
    under = Image.new("RGBA", over.size, background)
    return Image.alpha_composite(under, over).convert("RGB")


def resized(size: Size, resolution: int) -> Size:
    """Returns (width, height) with the shorter side at `resolution`, as torchvision rounds it.

    Raises:
      BadImage: so long and narrow that the longer side would not fit in memory.
    """
    short, long = min(size), max(size)
    scaled = int(resolution * long / short)
    if scaled * resolution > MAX_PIXELS:
        raise _too_narrow(size, "a square")
    return (resolution, scaled) if size[0] <= size[1] else (scaled, resolution)


def cover(size: Size, shape: Size) -> Fit:
    """Returns the fit of an image that is resized to cover a shape, rounded as sd-scripts does.

    Raises:
      BadImage: as `resized`.
    """
    (width, height), (w, h) = size, shape
    if width * h > height * w:  # the image is wider, and keeps its height
        covering = (int(width * h / height + 0.5), h)
    else:
        covering = (w, int(height * w / width + 0.5))
    if math.prod(covering) > MAX_PIXELS:
        raise _too_narrow(size, f"{w} x {h}")
    return Fit(covering, shape)


def _too_narrow(size: Size, shape: str) -> BadImage:
    return BadImage(f"{size[0]} x {size[1]} pixels: too narrow to crop {shape} from")
