"""Shards of tiny images."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def png(i, size=(16, 16)):
    """An image of a colour and a size of its own."""
    memory = io.BytesIO()
    pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).resize(size).save(memory, "PNG")
    return memory.getvalue()


def write_tar(path, files):
    """Writes an archive of files by name: bytes, words, or what becomes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            if not isinstance(content, bytes):
                content = (content if isinstance(content, str) else json.dumps(content)).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(numbers, size=(16, 16)):
    """The files of so many captioned images."""
    files = {}
    for i in numbers:
        files |= {f"{i:03d}.png": png(i, size), f"{i:03d}.txt": f"caption {i}"}
    return files
