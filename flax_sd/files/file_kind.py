"""Recognises, by its first bytes, a file that is not the weights or config expected."""

import json
import re

BEGINNING = 1024  # bytes that are looked at
_AGAIN = "download it again; a private or gated repository needs a token (hf auth login)"
_CONVERT = (
    "it can run code when it is opened and is not read: convert it where torch is installed, with "
    "safetensors.torch.save_file"
)
_BINARY = {  # first bytes -> what it is, and what to do
    b"GGUF": "a GGUF file, of weights for other programs: take the model's safetensors file",
    b"\x89HDF": "an HDF5 file, as Keras and h5py write: take the model's safetensors file",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"RIFF": "an image or a sound",
}


def kind_of(beginning: bytes) -> str:
    """Returns what a file is and what to do about it, after "is"; empty if unknown.

    Args:
      beginning: its first `BEGINNING` bytes, fewer if it is shorter.
    """
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not beginning:
        return f"empty: {_AGAIN}"
    if text.startswith(b"version https://git-lfs"):
        size = re.search(rb"\nsize (\d{1,20})", beginning)
        of = f" of {int(size[1])} bytes" if size else ""
        return f"a pointer of Git LFS to a file{of}: run `git lfs pull` in its folder"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return f"a web page, perhaps for a login: {_AGAIN}"
    if beginning.startswith(b"PK"):
        if b".pkl" in beginning or b"archive/" in beginning:
            return f"a pickle of torch (.ckpt, .bin or .pt) by another name: {_CONVERT}"
        return "a zip archive: unpack it first"
    if re.match(rb"\x80[\x02-\x05]", beginning):
        return f"a pickle (.ckpt, .bin or .pt) by another name: {_CONVERT}"
    if len(beginning) > 8 and not any(beginning):
        return f"nothing but zeros where it begins, as a download that was broken off: {_AGAIN}"
    return next((what for start, what in _BINARY.items() if beginning.startswith(start)), "")


def text_of(beginning: bytes) -> str:
    """Returns what a text is that was saved in place of a file, after "is"; empty if it is no
    text."""
    try:
        text = beginning.decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""
    if not text or not text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return ""
    what = "JSON" if text[0] in "{[" else "text"
    return f"{what} and no tensors; it says {json.dumps(text[:80], ensure_ascii=False)}: {_AGAIN}"
