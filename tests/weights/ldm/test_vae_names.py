"""The VAE's names and the layout of its attention against diffusers' converter."""

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from flax_sd.weights.ldm.contents import Contents, Tensors
from flax_sd.weights.ldm.parts import part_to_write
from tests.parity import numpy_state
from tests.weights.ldm import tiny_files
from tests.weights.ldm.public import FOLDERS, config, shapes, to_ldm


@pytest.mark.parametrize("family", FOLDERS)
def test_every_name_of_a_public_model(public, family):
    """Trap 23."""
    keys = list(shapes(public, family, "vae"))
    part = part_to_write("vae", family, keys)
    number = {key: torch.full((1, 1), i) for i, key in enumerate(keys)}
    file = {part.place(key).name: number[key] for key in keys}
    assert len(file) == len(keys)
    theirs = convert_ldm_vae_checkpoint(file, config(public, family, "vae"))
    assert {k: int(v) for k, v in theirs.items()} == {k: int(v) for k, v in number.items()}


def read(tensors):
    contents = Contents({key: value.shape for key, value in tensors.items()}, "x")
    assert list(contents.places) == ["vae"]
    return dict(Tensors(tensors, contents.places["vae"]))


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae.", ""])
def test_a_vae_alone(prefix):
    """Trap 23: under each prefix, with its attention as 1x1 convolutions."""
    model = tiny_files.vae()
    state = numpy_state(model)
    file = {
        name.replace("first_stage_model.", prefix): value
        for name, value in to_ldm("vae", "sd1", state).items()
    }
    assert file[f"{prefix}encoder.mid.attn_1.q.weight"].shape == (8, 8, 1, 1)
    assert file[f"{prefix}encoder.mid.attn_1.q.bias"].shape == (8,)
    theirs = convert_ldm_vae_checkpoint(
        {name: torch.from_numpy(value) for name, value in file.items()}, model.config
    )
    ours = read(file)
    assert ours.keys() == theirs.keys() == state.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in state)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_vae_with_diffusers_names(prefix):
    state = numpy_state(tiny_files.vae())
    ours = read({prefix + key: value for key, value in state.items()})
    assert ours.keys() == state.keys()


def test_attention_that_is_linear_already():
    file = to_ldm("vae", "sd1", numpy_state(tiny_files.vae()))
    key = "first_stage_model.encoder.mid.attn_1.q.weight"
    file[key] = file[key][:, :, 0, 0]
    assert read(file)["encoder.mid_block.attentions.0.to_q.weight"].shape == (8, 8)


def test_the_training_codes_own_tensors_are_left_out():
    file = to_ldm("vae", "sd1", numpy_state(tiny_files.vae()))
    file |= {
        "first_stage_model.loss.logvar": np.zeros(1),
        "first_stage_model.model_ema.decay": file,
    }
    file["first_stage_model.model_ema.decay"] = np.zeros(1)
    assert not any("loss" in key or "ema" in key for key in read(file))


def test_attention_under_diffusers_names_is_read():
    """As some files of the wild have it, with linear layers and with 1x1 convolutions."""
    state = numpy_state(tiny_files.vae())
    usual = to_ldm("vae", "sd1", state)
    names = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    for axes in (2, 4):
        file = {}
        for name, value in usual.items():
            for ours, theirs in names.items():
                if f".attn_1.{ours}." in name:
                    name = name.replace(f".attn_1.{ours}.", f".attn_1.{theirs}.")
                    value = value.reshape(value.shape[:axes]) if value.ndim == 4 else value
            file[name] = value
        found = read(file)
        assert found.keys() == state.keys()
        assert all(np.array_equal(found[key], value) for key, value in state.items())
