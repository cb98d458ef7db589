"""Folders of tiny images."""

from PIL import Image

CONVERT = ".heic images are not read: convert it to PNG or JPEG"


def image(path, **options):
    """Saves an image, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "red").save(path, **options)
