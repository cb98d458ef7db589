"""What an installed flax_sd shows: its types, its names and its help."""

import importlib.resources
import inspect
import pydoc

import pytest

import flax_sd


def test_type_checkers_read_its_types():
    """PEP 561: without this file a checker takes every name for Any."""
    assert (importlib.resources.files("flax_sd") / "py.typed").is_file()


def test_names_are_listed_before_they_are_used():
    assert {"DDPM", "StableDiffusion", "samplers"} <= {*dir(flax_sd)}
    assert "class StableDiffusion" in pydoc.render_doc(flax_sd, renderer=pydoc.plaintext)


@pytest.mark.parametrize("pipeline", [flax_sd.StableDiffusion, flax_sd.DDPM])
def test_help_names_every_argument(pipeline):
    """The public methods and properties have a docstring, and each argument a line in it."""
    for name, member in inspect.getmembers(pipeline):
        if name.startswith("_") or name == "kind":
            continue
        text = inspect.getdoc(member)
        assert text, name
        if not inspect.isroutine(member):
            continue
        arguments = [*inspect.signature(member).parameters]
        listed = "Args:" in text
        missing = [each for each in arguments if each != "self" and f"\n  {each}: " not in text]
        assert not (listed and missing), (name, missing)
