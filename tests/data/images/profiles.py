"""Colour profiles byte by byte, and what they mean by hand."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# Primaries as columns of XYZ, adapted to D50, from the profiles' specifications.
SRGB = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
ADOBE = [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
P3 = [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
PROPHOTO = [[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]]
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
ADOBE_GAMMA = 563 / 256
INKS = {  # Lab of corners: paper, cyan, magenta, yellow, black
    (0, 0, 0, 0): (100, 0, 0),
    (255, 0, 0, 0): (60, -30, -40),
    (0, 255, 0, 0): (50, 60, 0),
    (0, 0, 255, 0): (90, 0, 80),
    (0, 0, 0, 255): (10, 0, 0),
}


def _fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values):
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma):
    if isinstance(gamma, tuple):
        return b"para\0\0\0\0\0\3\0\0" + _fixed(*gamma)
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _profile(name, space, between, tags, device=b"mntr"):
    text = name.encode("ascii") + b"\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(8 + 67 + 3)
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(D50), **tags}
    place, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, content in tags.items():
        table += key + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4sI4s4s4s", place + len(body), b"\0" * 4, 0x02400000, device, space, between
    )
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(*D50)
    return head.ljust(128, b"\0") + table + body


def rgb(name, primaries, gamma):
    """A profile of three primaries and one curve."""
    columns = {f"{c}XYZ".encode(): _xyz(np.array(primaries)[:, i]) for i, c in enumerate("rgb")}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _profile(name, b"RGB ", b"XYZ ", columns | curves)


def grey(name, gamma):
    """A profile of greys."""
    return _profile(name, b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk(name):
    """A profile of four inks, by a table of their corners."""
    ramp, table = bytes(range(256)), b""
    for corner in np.ndindex(2, 2, 2, 2):
        light, a, b = INKS.get(tuple(255 * ink for ink in corner), (0, 0, 0))
        table += bytes([round(light * 2.55), a + 128, b + 128])
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = head + ramp * 4 + table + ramp * 3
    return _profile(name, b"CMYK", b"Lab ", {b"A2B0": lut}, b"prtr")


def _encoded(linear):
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * curve


def from_rgb(values, primaries, gamma):
    """The same colours in sRGB, in floating point."""
    values = np.asarray(values) / 255
    if isinstance(gamma, tuple):
        g, a, b, c, d = gamma
        linear = np.where(values < d, c * values, (a * values + b) ** g)
    else:
        linear = values**gamma
    return _encoded(linear @ (np.linalg.inv(SRGB) @ np.array(primaries)).T)


def from_lab(lab):
    """The colour in sRGB, in floating point."""
    light, a, b = lab
    y = (light + 16) / 116
    roots = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * D50
    return _encoded(np.linalg.inv(SRGB) @ xyz)


ADOBE_RGB = rgb("Adobe RGB (1998)", ADOBE, ADOBE_GAMMA)
