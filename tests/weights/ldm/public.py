"""The public models' tensor shapes, under diffusers' names and as a single file has them."""

import json

import numpy as np

from flax_sd.weights.ldm.changes import Change, written
from flax_sd.weights.ldm.parts import part_to_write

FOLDERS = {"sd1": "sd-v1-5", "sd2": "sd-v2-1", "sdxl": "sdxl-base-1.0"}
COMPONENTS = [
    (family, component)
    for family in FOLDERS
    for component in ("unet", "vae", "text_encoder", "text_encoder_2")
    if component != "text_encoder_2" or family == "sdxl"
]


def shapes(public, family, component):
    """Shapes by diffusers' or transformers' names."""
    table = public / FOLDERS[family] / component / "state_dict_shapes.tsv"
    rows = (line.split("\t") for line in table.read_text().splitlines())
    return {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


def config(public, family, component):
    return json.loads((public / FOLDERS[family] / component / "config.json").read_text())


def to_ldm(component, template, tensors):
    """Tensors as a single file has them."""
    part, files = part_to_write(component, template, tensors), {}
    for key, tensor in tensors.items():
        place = part.place(key)
        files.setdefault(place.name, {})[place.change] = tensor
    return {name: written(parts) for name, parts in files.items()}


def ldm_shapes(component, template, sizes):
    """Shapes as a single file has them."""
    views = {name: np.broadcast_to(np.float32(0), shape) for name, shape in sizes.items()}
    part, files = part_to_write(component, template, views), {}
    for key, view in views.items():
        place = part.place(key)
        rows = 3 if place.change in (Change.Q, Change.K, Change.V) else 1
        shape = (rows * view.shape[0], *view.shape[1:])
        squeezed = place.change == Change.SQUEEZED
        files[place.name] = (*shape, 1, 1) if squeezed else shape
    return files


def whole(public, family):
    """Shapes of a whole checkpoint."""
    return {
        name: shape
        for kind, component in COMPONENTS
        if kind == family
        for name, shape in ldm_shapes(component, family, shapes(public, family, component)).items()
    }
