"""A folder with an image of every kind of badness."""

import pathlib
import shutil

import numpy as np
from PIL import Image

SHORT, LONG = "a cat", "a very long caption and more"


def cut_off(caption: str) -> str:
    """As a text encoder that reads 20 letters."""
    return caption[20:].strip()


def messy_folder(folder: pathlib.Path) -> None:
    """Fills a folder with good images and bad ones, for a resolution of 16."""
    rng = np.random.default_rng(0)

    def save(name: str, width: int = 20, height: int = 18, text: str = SHORT, **options) -> None:
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name, **options)
        (folder / name).with_suffix(".txt").write_text(text)

    for name in ("a.png", "b.png", "latin.png", "no caption.png"):
        save(name)
    (folder / "latin.txt").write_bytes("un café".encode("latin-1"))
    (folder / "no caption.txt").unlink()
    save("cut off.jpg", 60, 60)
    (folder / "cut off.jpg").write_bytes((folder / "cut off.jpg").read_bytes()[:900])
    for name, content in (("empty.png", b""), ("not an image.png", b"<html>")):
        save(name)
        (folder / name).write_bytes(content)
    shutil.copy(folder / "a.png", folder / "copy.png")
    shutil.copy(folder / "a.txt", folder / "copy.txt")
    with Image.open(folder / "a.png") as image:
        image.save(folder / "saved again.bmp")
    (folder / "saved again.txt").write_text("a dog")
    save("no words.png", text=" \n")
    save("wordy.png", text=LONG)
    save("tiny.png", 8, 9)
    save("wide.png", 48, 16)
    turned = Image.Exif()
    turned[0x0112] = 6
    save("turned.jpg", exif=turned)
    frames = [Image.new("RGB", (20, 18), colour) for colour in ("red", "blue", "tan")]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:])
    (folder / "moves.txt").write_text(SHORT)
    (folder / "notes.txt").write_text("buy milk")
