"""What files are by their names."""

import pathlib

from flax_sd.data import masks

PICTURES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .avif .jp2 .ppm .tga".split()
)
# Further images of phones, cameras and painting programs, which the check names.
UNREAD_PICTURES = frozenset(
    ".heic .heif .hif .avifs .jxl .jxr .apng .svg .psd .xcf .exr .hdr .qoi .j2k .jpx .pgm .pnm "
    ".mpo .dng .cr2 .cr3 .nef .arw .raf .orf .rw2".split()
)
# What people and programs call a file of captions; which of them are read is for the folder to say.
CAPTIONS = frozenset(".txt .text .caption .captions .cap .tags".split())
SETS = (".parquet", ".arrow", ".tar")  # files of many images
METADATA = ("metadata.jsonl", "metadata.csv")
# What systems, file servers and editors leave behind: nothing is said of it.
LEFT_BEHIND = frozenset(
    "thumbs.db ehthumbs.db desktop.ini icon\r @eadir #recycle #snapshot __macosx lost+found "
    "$recycle.bin .ds_store .appledouble .lsoverride .spotlight-v100 .trashes .fseventsd "
    ".temporaryitems .directory .ipynb_checkpoints __pycache__ .localized".split(" ")
) | {"system volume information"}
LEFT_BEHIND_STARTS = ("._", ".nfs", ".fuse_hidden", ".trash", ".~lock", "~$")
ABOUT = ("readme", "license", "licence", "copying")  # files that speak of the set itself
OTHERS = {
    **dict.fromkeys(
        (".jsonl", ".csv", ".tsv", ".json"), f"captions are read from {' or '.join(METADATA)}"
    ),
    **dict.fromkeys((".parquet", ".arrow"), "a table is read where it is alone, or named itself"),
    ".tar": "archives are read with data.stream true",
    **dict.fromkeys((".zip", ".gz", ".tgz", ".7z", ".rar"), "archives are not read: unpack it"),
}


def is_image(path: pathlib.PurePath) -> bool:
    """Tells whether a file is an image of a set; masks are not."""
    return path.suffix.lower() in PICTURES and not masks.is_mask(path)


def why_unread(path: pathlib.PurePath) -> str | None:
    """Returns why a file that is an image by its name is not read, and what to do; or None."""
    end = path.suffix.lower()
    if end not in UNREAD_PICTURES:
        return None
    return f"{end} images are not read: convert it to PNG or JPEG"


def why_no_part(path: pathlib.PurePath) -> str:
    """Returns why any other file is no part of a set."""
    return OTHERS.get(path.suffix.lower(), "no image, and no caption of one")


def is_left_behind(name: str) -> bool:
    """Tells whether a system made a file or folder for itself, such as .DS_Store and @eaDir."""
    return name.lower() in LEFT_BEHIND or name.lower().startswith(LEFT_BEHIND_STARTS)


def is_about_the_set(path: pathlib.PurePath) -> bool:
    """Tells whether a file describes the set: README.md, LICENSE."""
    return path.stem.lower() in ABOUT and not is_image(path)
