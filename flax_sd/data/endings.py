"""What files are by the endings of their names."""

import pathlib

from flax_sd.data import masks

PICTURES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .avif .jp2 .ppm .tga".split()
)
# Further pictures of phones, cameras and painting programs, which the check names.
UNREAD_PICTURES = frozenset(
    ".heic .heif .hif .avifs .jxl .jxr .apng .svg .psd .xcf .exr .hdr .qoi .j2k .jpx .pgm .pnm "
    ".mpo .dng .cr2 .cr3 .nef .arw .raf .orf .rw2".split()
)
# What people and programs call a file of captions; which of them are read is for the folder to say.
CAPTIONS = frozenset(".txt .text .caption .captions .cap .tags".split())


def is_picture(path: pathlib.Path) -> bool:
    """Whether a file is a picture of a set; masks are none."""
    return path.suffix.lower() in PICTURES and not masks.is_mask(path)


def why_unread(path: pathlib.PurePath) -> str | None:
    """Returns why a file that is a picture by its name is not read, and what helps; or None."""
    end = path.suffix.lower()
    if end not in UNREAD_PICTURES:
        return None
    return f"{end} pictures are not read: convert it to PNG or JPEG"
