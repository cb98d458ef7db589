"""The inspect command's rows on a checkpoint in one file."""

import math

from flax_sd.commands.inspect.printout import Page
from flax_sd.errors import UserError
from flax_sd.weights.ldm.contents import Contents
from flax_sd.weights.ldm.facts import Facts, read_facts
from flax_sd.weights.ldm.parts import Shapes, parts_of
from flax_sd.weights.safetensors import TensorFile

_NAMES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    "sdxl_refiner": "SDXL refiner",
}
_HEADER = {  # rows, and the header's entries in each
    "name": ("modelspec.title", "modelspec.author", "modelspec.license"),
    "base": ("modelspec.architecture", "modelspec.resolution"),
}
_MAX_ENTRY = 60  # letters


def is_checkpoint(file: TensorFile) -> bool:
    """Tells whether a file has components of Stable Diffusion under their original names."""
    return bool(parts_of({name: file.shape(name) for name in file}))


def inspect_checkpoint(page: Page, file: TensorFile) -> None:
    """Adds family, components, what the UNet predicts, and what hinders its use."""
    shapes = {name: file.shape(name) for name in file}
    try:
        contents = Contents(shapes, str(file.path))
        facts = read_facts(shapes, file.metadata, contents.parts, str(file.path))
    except UserError as error:
        page.add_problem("format", str(error))
        return
    page.add("format", "checkpoint in one file, under its original names")
    page.add("for", f"{_NAMES[facts.template]}, {facts.task}" if facts.template else "")
    _add_components(page, contents, shapes)
    _add_prediction(page, facts)
    for label, keys in _HEADER.items():
        found = [file.metadata[key][:_MAX_ENTRY] for key in keys if file.metadata.get(key)]
        page.add(label, ", ".join(found))
    page.add("beside", ", ".join(page.names(sorted(contents.left))))


def _add_components(page: Page, contents: Contents, shapes: Shapes) -> None:
    for component, places in sorted(contents.places.items()):
        names = {place.name for place in places.values()}
        numbers = sum(math.prod(shapes[name]) for name in names)
        page.add(component, f"{len(names)} tensors, {numbers / 1e6:.1f} million numbers")


def _add_prediction(page: Page, facts: Facts) -> None:
    if facts.unclear:
        page.add_problem("prediction", facts.unclear)
        return
    said = facts.prediction or {
        "sd2": "not said: epsilon or v_prediction, which --prediction-type tells",
        None: "",
    }.get(facts.template, "epsilon, as without a mark")
    zero = "; the noise schedule ends in pure noise (ztsnr)" if facts.zero_snr else ""
    page.add("prediction", said + zero)
