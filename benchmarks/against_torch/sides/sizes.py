"""The images that are only decoded, on both sides."""

RESOLUTION, PICTURES_AT_ONCE = 512, 4
