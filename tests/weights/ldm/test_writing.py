"""What a written file holds beside the components, and what it says of itself."""

import logging
import math

import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.weights.deferred import Deferred
from flax_sd.weights.ldm.contents import Contents
from flax_sd.weights.ldm.facts import read_facts
from flax_sd.weights.ldm.header import About, check_latents
from flax_sd.weights.ldm.leftovers import Leftovers
from flax_sd.weights.ldm.parts import part_to_write
from flax_sd.weights.ldm.restored import check_blocks, restored
from flax_sd.weights.ldm.writing import placed_tensors
from tests.weights.ldm.public import COMPONENTS, shapes

PREFIX = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}


def deferred(sizes):
    """Tensors that cannot be read."""
    return {
        key: Deferred(np.dtype(np.float16), shape, lambda: 1 / 0) for key, shape in sizes.items()
    }


def about(template="sdxl", channels=4, side=1024, title="cat", **scheduler):
    return About(template, channels, scheduler, side, title)


def read_back(said, kept=()):
    """What our reader finds."""
    width = {"sd1": 768, "sd2": 1024, "sdxl_refiner": 1280, "sdxl": 2048}[said.template]
    sizes = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, said.channels, 3, 3),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (8, width),
    }
    sizes |= {key: mark.shape for key, mark in said.marks(kept).items()}
    contents = Contents(sizes, "x")
    return read_facts(sizes, said.metadata({}), contents.parts, "x")


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("template", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_what_is_said_is_read_back(template, prediction, zero_snr):
    """Traps 17 and 20: of a prediction without a mark there is one of our own."""
    said = about(template, prediction_type=prediction, rescale_betas_zero_snr=zero_snr)
    found = read_back(said)
    assert (found.template, found.prediction, found.zero_snr) == (template, prediction, zero_snr)
    assert found.side == 1024 and found.unclear is None
    said = about(template, rescale_betas_zero_snr=zero_snr)  # epsilon is the class's default
    assert read_back(said).prediction == "epsilon"


def test_the_marks_that_comfyui_reads():
    """Trap 17: empty tensors, and an entry of the header."""
    said = about(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert {key: mark.shape for key, mark in said.marks().items()} == {
        "v_pred": (0,),
        "ztsnr": (0,),
    }
    assert said.metadata({})["modelspec.predict_key"] == "v"
    assert about().marks() == {} and about().metadata({})["modelspec.predict_key"] == "epsilon"
    sd2 = about("sd2", prediction_type="v_prediction")  # trap 19: by its weights
    assert sd2.marks() == {} and sd2.marks(["v_pred"]).keys() == {"v_pred"}
    assert about().marks(["v_pred", "ztsnr"]) == {}  # no longer true


@pytest.mark.parametrize(
    ("template", "channels", "prediction", "name"),
    [
        ("sd1", 4, "epsilon", "stable-diffusion-v1"),
        ("sd1", 9, "epsilon", "stable-diffusion-v1-inpainting"),
        ("sd2", 4, "epsilon", "stable-diffusion-v2-512"),
        ("sd2", 4, "v_prediction", "stable-diffusion-v2-768-v"),
        ("sd2", 9, "epsilon", "stable-diffusion-v2-inpainting"),
        ("sdxl", 4, "v_prediction", "stable-diffusion-xl-v1-base"),
        ("sdxl", 9, "epsilon", "stable-diffusion-xl-v1-base"),
        ("sdxl_refiner", 4, "epsilon", "stable-diffusion-xl-v1-refiner"),
    ],
)
def test_model_spec(template, channels, prediction, name):
    """All entries that ModelSpec 1.0.1 asks for, as strings."""
    metadata = about(template, channels, prediction_type=prediction).metadata({})
    assert metadata["modelspec.architecture"] == name
    for key in ("sai_model_spec", "implementation", "title", "resolution", "prediction_type"):
        assert metadata[f"modelspec.{key}"]
    assert metadata["modelspec.resolution"] == "1024x1024"
    assert "modelspec.resolution" not in about(side=None).metadata({})
    assert not [key for key in metadata if "date" in key]


def test_what_a_file_said_of_itself_stays():
    kept = {
        "modelspec.title": "mine",
        "modelspec.author": "me",
        "modelspec.resolution": "768x512",
        "modelspec.hash_sha256": "0x12",  # of other bytes
        "sshs_model_hash": "12",
        "flax_sd_export": "convert",  # else a later export might replace what was only saved
        "modelspec.prediction_type": "v",
        "modelspec.sai_model_spec": "1.0.0",
    }
    metadata = about().metadata(kept)
    assert metadata["modelspec.title"] == "mine" and metadata["modelspec.author"] == "me"
    assert metadata["modelspec.resolution"] == "768x512"
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert not {"modelspec.hash_sha256", "sshs_model_hash", "flax_sd_export"} & metadata.keys()


@pytest.mark.parametrize(("family", "component"), COMPONENTS)
def test_every_tensor_of_a_public_model_has_a_place(public, family, component):
    """Traps 1, 3, 4 and 23: no number is read, and the file's shapes are those of the original."""
    sizes = shapes(public, family, component)
    part = part_to_write(component, family, sizes)
    placed = placed_tensors(part, deferred(sizes), component)
    assert all(name.startswith(part.prefix) for name in placed)
    count = sum(math.prod(tensor.shape) for tensor in placed.values())
    assert count == sum(math.prod(shape) for shape in sizes.values())
    if component == "vae":
        shape = placed["first_stage_model.decoder.mid.attn_1.q.weight"].shape
        assert shape == (512, 512, 1, 1)
    if part.prefix in PREFIX.values():
        width = sizes["text_model.final_layer_norm.bias"][0]
        packed = placed[f"{part.prefix}transformer.resblocks.3.attn.in_proj_weight"]
        assert packed.shape == (3 * width, width)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_what_transformers_lost_of_open_clip(public, family):
    """Traps 2 and 5: then the file has all that OpenCLIP's own class has."""
    component, prefix = {"sd2": "text_encoder", "sdxl": "text_encoder_2"}[family], PREFIX[family]
    sizes = shapes(public, family, component)
    placed = placed_tensors(part_to_write(component, family, sizes), deferred(sizes), component)
    added = restored(placed, prefix, family)
    scale = added.pop(f"{prefix}logit_scale")
    assert scale.dtype == np.float16 and scale == np.float16(math.log(100))
    if family == "sdxl":
        assert not added
        return
    identity = added.pop(f"{prefix}text_projection")
    np.testing.assert_array_equal(identity, np.eye(1024))
    last, before = (f"{prefix}transformer.resblocks.{i}." for i in (23, 22))
    assert len(added) == 12
    for name, tensor in added.items():
        assert tensor is placed[name.replace(last, before)]
    check_blocks(placed, prefix)
    with pytest.raises(UserError, match="its text encoder has 24 layers, and of Stable .* 23 are"):
        check_blocks({**placed, **added}, prefix)


def test_what_was_kept_is_not_made_anew():
    """Traps 2 and 5."""
    prefix = PREFIX["sd2"]
    words = {f"{prefix}token_embedding.weight": np.ones((3, 2), np.float32)}
    for name in ("text_projection", "text_projection.weight"):
        kept = {prefix + name: np.ones((2, 2)), f"{prefix}logit_scale": np.ones(())}
        assert restored({**words, **kept}, prefix, "sd2") == {}


def test_leftovers_of_a_damaged_file(tmp_path):
    (tmp_path / "single_file_leftovers.safetensors").write_bytes(b"\x10")
    with pytest.raises(UserError, match="leftovers.safetensors is not a whole safetensors file"):
        Leftovers.of_folder(tmp_path)


def test_the_scale_of_the_latents(caplog):
    """Traps 21 and 22: what a file cannot say is told, or refused."""
    for vae, family in (
        ({}, "sd1"),
        ({"scaling_factor": 0.18215, "latents_mean": None}, "sd2"),
        ({"scaling_factor": 0.13025}, "sdxl"),
    ):
        check_latents(vae, family, "x")
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "flax_sd"):
        check_latents({"scaling_factor": 0.3}, "sdxl", "x")
    assert "x has the scaling_factor 0.3, and readers of one file take 0.13025" in caplog.text
    with pytest.raises(UserError, match="x has latents_mean and latents_std, which a checkpoint"):
        check_latents({"latents_mean": [0.1] * 4, "latents_std": [1] * 4}, "sdxl", "x")
