"""A checkpoint in one file draws what its folder draws."""

import numpy as np
import pytest

import flax_sd
from flax_sd.errors import UserError
from flax_sd.weights import safetensors
from flax_sd.weights.fill import state_tensors
from flax_sd.weights.model_files import ModelFiles
from tests.tiny import NEGATIVES, PROMPTS, STEPS
from tests.weights.ldm.conftest import singles

__all__ = ["singles"]
GIVEN = {**STEPS, "num_inference_steps": 2, "output": "latents", "seed": 3, "sampler": "ddim"}


def loaded(singles, family, **options):
    return flax_sd.StableDiffusion.load(
        singles / f"{family}.safetensors", config=singles / family, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_its_images_are_those_of_the_folder(singles, family, tmp_path):
    """Traps 1 to 4, 9 and 23."""
    folder, file = flax_sd.StableDiffusion.load(singles / family), loaded(singles, family)
    assert file.family == folder.family == family
    assert file.source == str(singles / f"{family}.safetensors")
    expected = folder.generate(PROMPTS, NEGATIVES, **GIVEN)
    np.testing.assert_array_equal(file.generate(PROMPTS, NEGATIVES, **GIVEN), expected)
    file.save(tmp_path / "saved")
    again = flax_sd.StableDiffusion.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.generate(PROMPTS, NEGATIVES, **GIVEN), expected)


def test_the_prediction_type_may_be_said(singles):
    plain, other = loaded(singles, "sdxl"), loaded(singles, "sdxl", prediction_type="v_prediction")
    assert plain.scheduler_config["prediction_type"] == "epsilon"
    assert other.scheduler_config["prediction_type"] == "v_prediction"


def test_a_vae_in_one_file_keeps_the_models_scale(singles, tmp_path):
    whole = safetensors.TensorFile(singles / "sdxl.safetensors")
    kept = {key: whole[key] for key in whole if key.startswith("first_stage_model.")}
    safetensors.write(tmp_path / "vae.safetensors", kept)
    # The variant is the model's, which falls back to its plain files.
    files = ModelFiles.find(singles / "sdxl", None, "fp16", vae=str(tmp_path / "vae.safetensors"))
    assert files.place("vae") == tmp_path / "vae.safetensors"
    assert files.config("vae") == ModelFiles(singles / "sdxl").config("vae")
    ours = state_tensors(files.load("vae", "float32"))
    folder = ModelFiles(singles / "sdxl").tensors("vae")
    assert all(np.array_equal(ours[key], folder[key]) for key in folder)


def test_a_checkpoint_without_a_vae_takes_one_from_elsewhere(singles, tmp_path):
    whole = safetensors.TensorFile(singles / "sdxl.safetensors")
    kept = {key: whole[key] for key in whole if not key.startswith("first_stage_model.")}
    safetensors.write(tmp_path / "novae.safetensors", kept)
    alone = ModelFiles.find(tmp_path / "novae.safetensors", config=singles / "sdxl")
    with pytest.raises(UserError, match="has no vae: it holds .*VAE may be named by itself"):
        alone.check_kind()
    both = ModelFiles.find(
        tmp_path / "novae.safetensors", config=singles / "sdxl", vae=str(singles / "sdxl")
    )
    both.check_kind()
    assert both.config("vae")["block_out_channels"] == [4, 8, 8]
    file = ModelFiles(tmp_path / "novae.safetensors", vae=singles / "sdxl.safetensors")
    assert file.config("vae")["scaling_factor"] == 0.13025  # of the family's public VAE


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_broken_numbers_that_nobody_reads_do_no_harm(singles, tmp_path, number, caplog):
    """Trap 6: a checkpoint in circulation has such a last layer."""
    whole = dict(safetensors.TensorFile(singles / "sdxl.safetensors"))
    name = "conditioner.embedders.0.transformer.text_model.encoder.layers.2.mlp.fc1.weight"
    whole[name] = np.full_like(whole[name], number)
    safetensors.write(tmp_path / "broken.safetensors", whole)
    sd = flax_sd.StableDiffusion.load(tmp_path / "broken.safetensors", config=singles / "sdxl")
    assert "never read: text_model.encoder.layers.2.mlp.fc1.weight" in caplog.text
    expected = loaded(singles, "sdxl").generate("a", **GIVEN)
    np.testing.assert_array_equal(sd.generate("a", **GIVEN), expected)
    sd.save(tmp_path / "saved")


def test_the_running_mean_is_read_where_it_is_asked_for(singles, tmp_path):
    """Trap 24."""
    whole = dict(safetensors.TensorFile(singles / "sd1.safetensors"))
    unet = "model.diffusion_model."
    means = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): 2 * whole[key]
        for key in whole
        if key.startswith(unet)
    }
    safetensors.write(tmp_path / "ema.safetensors", whole | means)
    plain, mean = (
        ModelFiles.find(tmp_path / "ema.safetensors", ema=ema).tensors("unet")
        for ema in (False, True)
    )
    np.testing.assert_array_equal(mean["conv_in.weight"], 2 * plain["conv_in.weight"])
    with pytest.raises(UserError, match="^ema: .* is a folder"):
        ModelFiles.find(singles / "sd1", ema=True)


def test_broken_numbers_that_are_used_are_named(singles, tmp_path):
    """Trap 6."""
    whole = dict(safetensors.TensorFile(singles / "sd1.safetensors"))
    key = "model.diffusion_model.out.2.weight"
    whole[key] = np.full_like(whole[key], np.nan)
    safetensors.write(tmp_path / "broken.safetensors", whole)
    with pytest.raises(UserError, match="conv_out.weight"):
        flax_sd.StableDiffusion.load(tmp_path / "broken.safetensors", config=singles / "sd1")


def test_what_is_no_whole_model_is_named(singles, tmp_path):
    with pytest.raises(UserError, match="^config .* is a folder, and has configs"):
        flax_sd.StableDiffusion.load(singles / "sd1", config=singles / "sd1")
    lora = {"lora_unet_x.lora_down.weight": np.zeros((2, 2), np.float32)}
    safetensors.write(tmp_path / "lora.safetensors", lora)
    with pytest.raises(UserError, match="LoRA"):
        flax_sd.StableDiffusion.load(tmp_path / "lora.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 99)
    with pytest.raises(UserError, match="model.safetensors"):
        flax_sd.StableDiffusion.load(tmp_path / "model.safetensors")
