"""Files with any one tensor of another name or shape: read, or refused in a sentence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_sd.errors import UserError
from flax_sd.weights.ldm.configs import component_config
from flax_sd.weights.ldm.contents import Contents, component_shapes
from flax_sd.weights.ldm.facts import read_facts
from flax_sd.weights.ldm.templates import base_configs
from tests.weights.ldm import tiny_files
from tests.weights.ldm.public import to_ldm

SIZES = st.lists(st.sampled_from([0, 1, 3, 8, 320, 768]), max_size=5).map(tuple)


@pytest.fixture(scope="module")
def whole():
    states = tiny_files.states(tiny_files.build("sdxl"))
    return {
        name: tensor.shape
        for component, state in states.items()
        for name, tensor in to_ldm(component, "sdxl", state).items()
    }


def read(shapes):
    contents = Contents(shapes, "x")
    facts = read_facts(shapes, {}, contents.parts, "x")
    for component, places in contents.places.items():
        sizes = component_shapes(shapes, places)
        base = base_configs("sdxl")[component]
        # Past the first check, of a width that no small file has.
        if component.startswith("text"):
            base["hidden_size"] = tiny_files.WIDTHS[component]
        else:
            base["block_out_channels"] = [8 if component == "unet" else 4]
        component_config(component, sizes, base, "x")
    return facts


def test_the_whole_file(whole):
    assert read(whole).template == "sdxl"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_tensor_is_wrong(whole, data):
    shapes = dict(whole)
    name = data.draw(st.sampled_from(sorted(shapes)))
    shape = shapes.pop(name)
    match data.draw(st.sampled_from(["gone", "shape", "number"])):
        case "shape":
            shapes[name] = data.draw(SIZES)
        case "number":
            parts = name.split(".")
            numbers = [i for i, part in enumerate(parts) if part.isdigit()]
            if numbers:
                parts[data.draw(st.sampled_from(numbers))] = data.draw(
                    st.sampled_from(["0", "7", "42", "99", "100", "9" * 30, "٣"])
                )
            shapes[".".join(parts)] = shape
    try:
        read(shapes)
    except UserError as error:
        assert str(error).startswith("x")
