"""Builds a folder of thirty images of which most have something the matter.

    python scripts/build_messy_set.py my_messy_pictures

Made of the bundled style's drawings: damaged, turned, doubled, tiny, narrow, moving, transparent,
and with captions that are missing, empty, too long or in another encoding. docs/walk.md goes from
this folder to a LoRA and its report.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

STYLE = Path(__file__).parents[1] / "flax_sd" / "bundled" / "style"
LONG = "a ballot box, flat drawing" + ", flat colours, bold shapes, no shading" * 12
GOOD, DOUBLES = 10, 2
ORIENTATION = 0x0112  # of EXIF; 6 is turned by a right angle

Make = Callable[[Path, Image.Image], object]  # writes an image to a path without its suffix


def saved(suffix: str) -> Make:
    """A whole image in some format."""
    return lambda path, image: image.save(path.with_suffix(suffix))


def resized(width: int, height: int, suffix: str = ".png") -> Make:
    """An image stretched to a size, in pixels."""
    return lambda path, image: image.resize((width, height)).save(path.with_suffix(suffix))


def turned(path: Path, image: Image.Image) -> None:
    """A phone's photograph: stored sideways, with the note that says so."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.rotate(90).save(path.with_suffix(".jpg"), exif=exif)


def cut_off(path: Path, image: Image.Image) -> None:
    """A download that broke off in the middle."""
    image.save(path.with_suffix(".jpg"), quality=95)
    content = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(content[: len(content) // 2])


def flipped_bytes(path: Path, image: Image.Image) -> None:
    """A file that a bad disk has changed."""
    image.save(path.with_suffix(".png"))
    content = bytearray(path.with_suffix(".png").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.with_suffix(".png").write_bytes(content)


def holding(content: bytes) -> Make:
    """A file that is called an image and is none."""
    return lambda path, image: path.with_suffix(".png").write_bytes(content)


def moving(path: Path, image: Image.Image) -> None:
    """A GIF of three frames."""
    frames = [image.rotate(angle) for angle in (0, 10, 20)]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])


def transparent(path: Path, image: Image.Image) -> None:
    """A drawing whose white is see-through."""
    alpha = image.convert("L").point([255] * 251 + [0] * 5)
    image.putalpha(alpha)
    image.save(path.with_suffix(".png"))


def sixteen_bit(path: Path, image: Image.Image) -> None:
    """A grey image of 16 bits."""
    grey = image.convert("L").convert("I").point(lambda value: value * 257)
    grey.convert("I;16").save(path.with_suffix(".png"))


# What each image is made by, and its caption where that is not the drawing's own: bytes are
# written as they are, None writes no file.
KINDS: dict[str, tuple[Make, bytes | str | None]] = {
    "cut off": (cut_off, ""),
    "bad disk": (flipped_bytes, ""),
    "empty file": (holding(b""), ""),
    "a web page": (holding(b"<html>not found</html>"), ""),
    "no caption": (saved(".png"), None),
    "empty caption": (saved(".png"), b"\n"),
    "latin caption": (saved(".png"), "une balance à plateaux, flat drawing".encode("latin-1")),
    "wordy": (saved(".png"), LONG),
    "turned": (turned, ""),
    "moving": (moving, ""),
    "transparent": (transparent, ""),
    "sixteen bits": (sixteen_bit, ""),
    "printed": (lambda path, image: image.convert("CMYK").save(path.with_suffix(".jpg")), ""),
    "tiny": (resized(40, 40), ""),
    "wide": (resized(384, 128), ""),
    "tall": (resized(128, 256), ""),
    "a thread": (resized(20000, 1), ""),
    "webp": (saved(".webp"), ""),
}


def build(folder: Path) -> None:
    """Fills a new folder: an image of every kind, two doubles, the rest good, two loose ends."""
    folder.mkdir(parents=True)
    rows = map(json.loads, (STYLE / "metadata.jsonl").read_text("utf-8").splitlines())
    kinds = list(KINDS.items()) + [(f"good {i}", (saved(".png"), "")) for i in range(1, GOOD + 1)]
    for (name, (make, own)), row in zip(kinds, rows, strict=False):
        with Image.open(STYLE / row["file_name"]) as image:
            make(folder / name, image.convert("RGB"))
        caption = row["text"] if own == "" else own
        if caption is not None:
            text = caption if isinstance(caption, bytes) else caption.encode()
            (folder / f"{name}.txt").write_bytes(text)
    with Image.open(folder / "good 1.png") as image:
        image.save(folder / "saved again.bmp")
    shutil.copy(folder / "good 2.png", folder / "copied.png")
    (folder / "saved again.txt").write_text("something else, flat drawing")
    shutil.copy(folder / "good 2.txt", folder / "copied.txt")
    (folder / "notes.txt").write_text("buy milk")
    (folder / "Thumbs.db").write_bytes(b"\0")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Builds a folder of thirty messy images.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    build(folder)
    print(f"written: {folder}, {len(KINDS) + GOOD + DOUBLES} images, some of them broken")
