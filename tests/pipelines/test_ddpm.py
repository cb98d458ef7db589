import diffusers
import jax
import numpy as np
import pytest
import torch
from flax import nnx

import flax_sd
from flax_sd.errors import UserError
from tests import parity

UNET = {
    "sample_size": (8, 12),
    "block_out_channels": (8, 12),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": None,
}
SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def theirs():
    unet = parity.randomise(diffusers.UNet2DModel(**UNET))
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large", clip_sample=True)
    return diffusers.DDPMPipeline(unet, scheduler)


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("ddpm") / "model"
    theirs.save_pretrained(path)
    return path


def drawn(pipeline, seeds, steps):
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(len(seeds), generators, steps, output_type="np").images


def test_images_equal_diffusers(theirs, folder):
    ours = flax_sd.DDPM.load(folder).generate(3, 4, seed=3, output="float")
    assert ours.shape == (3, 8, 12, 3)
    parity.assert_close(ours, drawn(theirs, SEEDS, 4), parity.NETWORK)


def test_pil_images_and_a_callback(folder):
    model, steps = flax_sd.DDPM.load(folder), []
    pixels = model.generate(2, 3)
    told = model.generate(2, 3, output="pil", callback=lambda *each: steps.append(each))
    assert np.array_equal(np.stack(told), pixels)
    assert [(step, count, x.shape) for step, count, x in steps] == [
        (step, 3, (2, 8, 12, 3)) for step in (1, 2, 3)
    ]


def test_save_gives_back_what_diffusers_loads(theirs, folder, tmp_path):
    flax_sd.DDPM.load(folder).save(tmp_path / "saved")
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "saved")
    assert again.scheduler.config.variance_type == "fixed_large"
    for name, tensor in theirs.unet.state_dict().items():
        np.testing.assert_array_equal(again.unet.state_dict()[name], tensor, err_msg=name)


def test_what_a_pipeline_says_of_itself_and_what_may_be_replaced(folder):
    model, other = (flax_sd.DDPM.load(folder) for _ in range(2))
    assert model.folder == folder and model.source == str(folder)
    assert model.config == model.configs["unet"] and model.config["_class_name"] == "UNet2DModel"
    own = model.generate(2, 3)
    nnx.update(other.unet, jax.tree.map(lambda leaf: leaf / 2, nnx.state(other.unet)))
    model.unet = other.unet
    replaced = model.generate(2, 3)
    assert (own != replaced).any()
    model.scheduler_config = {**model.scheduler_config, "_class_name": "DDIMScheduler"}
    assert (model.generate(2, 3) != replaced).any()


def test_what_cannot_be_drawn_is_named(folder):
    model = flax_sd.DDPM.load(folder)
    with pytest.raises(UserError) as caught:
        model.generate(2, seed=[1, 2, 3], height=9)
    assert str(caught.value) == (
        "3 seeds for 2 images; give one or each; height is 9: should be a positive multiple of 2"
    )
    with pytest.raises(UserError, match="is a DDPMPipeline; only a StableDiffusionPipeline"):
        flax_sd.StableDiffusion.load(folder)
    with pytest.raises(UserError, match="is a StableDiffusionPipeline; only a DDPMPipeline can"):
        flax_sd.DDPM.load("bundled:base")
