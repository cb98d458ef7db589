"""The text encoders' names and layouts against diffusers' converters, and the dialects."""

import types

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_open_clip_checkpoint,
)

from flax_sd.weights.ldm.changes import Change
from flax_sd.weights.ldm.contents import Contents, Tensors
from flax_sd.weights.ldm.parts import part_to_write
from tests.weights.ldm.public import COMPONENTS, shapes, to_ldm

TEXT = [pair for pair in COMPONENTS if pair[1].startswith("text")]


def open_clip(width, layers, prefix, seed=0):
    """OpenCLIP's own tensors, made without our table."""
    rng = np.random.default_rng(seed)
    sizes = {
        "token_embedding.weight": (9, width),
        "positional_embedding": (7, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, width),
        "logit_scale": (),
    }
    for i in range(layers):
        sizes |= {
            f"transformer.resblocks.{i}.{name}": shape
            for name, shape in {
                "attn.in_proj_weight": (3 * width, width),
                "attn.in_proj_bias": (3 * width,),
                "attn.out_proj.weight": (width, width),
                "attn.out_proj.bias": (width,),
                "ln_1.weight": (width,),
                "ln_1.bias": (width,),
                "ln_2.weight": (width,),
                "ln_2.bias": (width,),
                "mlp.c_fc.weight": (2 * width, width),
                "mlp.c_fc.bias": (2 * width,),
                "mlp.c_proj.weight": (width, 2 * width),
                "mlp.c_proj.bias": (width,),
            }.items()
        }
    return {prefix + k: np.asarray(rng.normal(size=s), np.float32) for k, s in sizes.items()}


def read(tensors, component):
    contents = Contents({key: value.shape for key, value in tensors.items()}, "x")
    return dict(Tensors(tensors, contents.places[component]))


def theirs(tensors, prefix, width):
    model = types.SimpleNamespace(config=types.SimpleNamespace(hidden_size=width))
    file = {name: torch.from_numpy(value) for name, value in tensors.items()}
    found = convert_open_clip_checkpoint(model, file, prefix=prefix)
    return {key: value.numpy() for key, value in found.items()}


def test_open_clip_of_sdxl():
    """Traps 1 and 3: the projection is transposed, and q, k and v are thirds of the rows."""
    prefix = "conditioner.embedders.1.model."
    file = open_clip(8, 2, prefix)
    ours, reference = read(file, "text_encoder_2"), theirs(file, prefix, 8)
    assert ours.keys() == reference.keys()
    assert all(np.array_equal(ours[key], reference[key]) for key in reference)
    projection = file[f"{prefix}text_projection"]
    assert np.array_equal(ours["text_projection.weight"], projection.T)
    packed = file[f"{prefix}transformer.resblocks.1.attn.in_proj_bias"]
    assert np.array_equal(ours["text_model.encoder.layers.1.self_attn.k_proj.bias"], packed[8:16])
    del file[f"{prefix}logit_scale"]  # trap 5: known, and lost in transformers
    again = to_ldm("text_encoder_2", "sdxl", ours)
    assert again.keys() == file.keys() and all(np.array_equal(again[k], file[k]) for k in file)


def test_open_clip_of_stable_diffusion_2():
    """Trap 2: 23 of 24 blocks are read, and the projection, here ones, never is."""
    prefix = "cond_stage_model.model."
    file = open_clip(4, 24, prefix)
    file[f"{prefix}text_projection"] = np.ones((4, 4), np.float32)
    ours, reference = read(file, "text_encoder"), theirs(file, prefix, 4)
    assert ours.keys() == reference.keys() and "text_projection.weight" not in ours
    assert all(np.array_equal(ours[key], reference[key]) for key in reference)
    assert "text_model.encoder.layers.22.mlp.fc1.weight" in ours
    del file[f"{prefix}text_projection"]  # diffusers issue 1979: it may be missing
    assert read(file, "text_encoder").keys() == ours.keys()


@pytest.mark.parametrize(("width", "component"), [(1024, "text_encoder"), (1280, "text_encoder_2")])
def test_the_width_tells_the_refiner_from_stable_diffusion_2_in_sgm_form(width, component):
    """Trap 4."""
    prefix = "conditioner.embedders.0.model."
    names = open_clip(1, 24, prefix)
    names[f"{prefix}token_embedding.weight"] = np.broadcast_to(np.float32(0), (49408, width))
    keys = read(names, component)
    assert ("text_projection.weight" in keys) == (width == 1280)
    assert ("text_model.encoder.layers.23.layer_norm1.bias" in keys) == (width == 1280)


def test_the_refiners_place_in_a_new_file():
    part = part_to_write("text_encoder_2", "sdxl_refiner", [])
    place = part.place("text_projection.weight")
    assert place == ("conditioner.embedders.0.model.text_projection", Change.TRANSPOSED)


@pytest.mark.parametrize("ending", [".weight", ".weight.weight"])
def test_a_projection_that_is_a_linear_layer(ending):
    """Trap 4: as in Playground v2; ComfyUI does not transpose it."""
    prefix = "conditioner.embedders.1.model."
    file = open_clip(8, 1, prefix)
    file[f"{prefix}text_projection{ending}"] = projection = file.pop(f"{prefix}text_projection")
    assert np.array_equal(read(file, "text_encoder_2")["text_projection.weight"], projection)


@pytest.mark.parametrize(
    "prefix", ["cond_stage_model.transformer.", "conditioner.embedders.0.transformer."]
)
def test_clip_with_and_without_the_level_text_model(prefix):
    """Traps 4 and 5."""
    keys = {
        "embeddings.token_embedding.weight": np.ones((3, 2)),
        "embeddings.position_ids": np.arange(2.0)[None],
        "encoder.layers.0.self_attn.q_proj.weight": np.ones((2, 2)),
        "final_layer_norm.bias": np.ones(2),
    }
    file = {f"{prefix}text_model.{key}": value for key, value in keys.items()}
    reference = convert_ldm_clip_checkpoint(file)
    bare = {prefix + key: value for key, value in keys.items()}
    assert read(file, "text_encoder").keys() == reference.keys()
    assert read(bare, "text_encoder").keys() == reference.keys()
    odd = f"{prefix}text_model.encoder.text_model.embeddings.position_ids"  # ComfyUI's
    assert read({**file, odd: np.arange(2)}, "text_encoder").keys() == reference.keys()


def test_a_constant_under_a_name_of_open_clip():
    """Traps 4 and 5: sd-scripts finds it once it has renamed `transformer` to `encoder`."""
    prefix = "conditioner.embedders.1.model."
    file = open_clip(4, 1, prefix)
    odd = f"{prefix}transformer.text_model.embeddings.position_ids"
    found = read({**file, odd: np.arange(77)}, "text_encoder_2")
    assert found.keys() - read(file, "text_encoder_2") == {"text_model.embeddings.position_ids"}


@pytest.mark.parametrize(("family", "component"), TEXT)
def test_every_name_of_a_public_model(public, family, component):
    keys = shapes(public, family, component)
    part = part_to_write(component, family, keys)
    places = {key: part.place(key) for key in keys}
    assert None not in places.values() and len(set(places.values())) == len(keys)
    names = {place.name for place in places.values()}
    found = {key: place for name in names for key, place in part.places(name).items()}
    assert found == places
