"""Which tensors of a single file are read, left out, and refused."""

import logging

import pytest

from flax_sd.errors import UserError
from flax_sd.weights.ldm.contents import Contents
from flax_sd.weights.ldm.parts import UNET

FIRST = f"{UNET}input_blocks.0.0.weight"


def contents(*names, **options):
    shapes = {name: (2, 2) for name in (FIRST, *names)}
    return Contents(shapes, "x.safetensors", **options)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("edm_mean", "Playground v2.5"),
        ("edm_std", "Playground v2.5"),
        ("edm_vpred.sigma_max", "CosXL"),
        (f"{UNET}time_embed.cond_proj.weight", "an LCM, whose UNet reads the guidance scale"),
        ("first_stage_model.latents_mean", "a VAE whose latents have a mean"),
        ("model.diffusion_model.scaled_fp8", "numbers of 8 bits with a scale"),
        (f"{UNET}out.2.scale_weight", "numbers of 8 bits with a scale"),
        (f"{UNET}out.2.weight_scale", "numbers of 8 bits with a scale"),
        ("depth_model.x", "a model that reads depth"),
    ],
)
def test_a_mark_is_refused_by_name(name, what):
    """Traps 16, 17 and 22."""
    with pytest.raises(UserError, match=f"holds {name}, a mark of {what}.*; that is not supported"):
        contents(name)


@pytest.mark.parametrize(
    "name",
    [
        "cond_stage_model.text_projection",
        "conditioner.embedders.0.text_projection.weight",
        "conditioner.embedders.1.logit_scale",
        "embedding_manager.string_to_param_dict.*",
        "model_ema.decay",
        "alphas_cumprod",
    ],
)
def test_leftovers_of_other_programs_do_no_harm(name):
    """ComfyUI's older saves, A1111's merges, the training code's buffers."""
    assert list(contents(name).places) == ["unet"]


def test_unknown_tensors_are_refused():
    """Trap 17: a mark that nobody knows."""
    with pytest.raises(UserError, match="SDXL do not have: rf_shift, x; name a checkpoint of one"):
        contents("x", "rf_shift")
    with pytest.raises(UserError, match="do not have: model.diffusion_model.input_blocks.3.9.x"):
        contents(f"{UNET}input_blocks.3.9.x")


def test_other_models_are_named():
    shapes = {
        f"{UNET}joint_blocks.0.x.weight": (2,),
        "first_stage_model.decoder.conv_in.weight": (),
    }
    with pytest.raises(
        UserError, match="x is a Stable Diffusion 3 checkpoint in one file, and hol"
    ):
        Contents(shapes, "x")
    with pytest.raises(UserError, match="x is a Flux checkpoint in one file: it holds no Stable"):
        Contents({"double_blocks.0.img_attn.qkv.weight": (2, 2)}, "x")
    with pytest.raises(
        UserError, match="x is a UNet, Stable Diffusion: it holds no Stable Diffusio"
    ):
        Contents({"time_embedding.linear_1.weight": (4, 4)}, "x")
    with pytest.raises(
        UserError, match="x holds no Stable Diffusion under its original names; a c"
    ):
        Contents({"global_step": ()}, "x")


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",
        "lora_unet_input_blocks_4_1_proj_in.hada_w1_a",
        "lora_unet_input_blocks_4_1_norm.diff",
    ],
)
def test_a_lora_is_not_a_model(name):
    with pytest.raises(
        UserError, match="is a LoRA, not a model: name the model that it was trained"
    ):
        Contents({name: (4, 4)}, "x")


def test_what_the_training_code_left_is_not_read(caplog):
    """Trap 24."""
    with caplog.at_level(logging.INFO, "flax_sd"):
        read = contents(
            "betas",
            "sqrt_one_minus_alphas_cumprod",
            "sqrt_recipm1_alphas_cumprod",
            "log_one_minus_alphas_cumprod",
            "alphas_cumprod_prev",
            "posterior_variance",
            "model_ema.decay",
            "global_step",
            "denoiser.sigmas",
            "v_pred",
        )
    assert read.places["unet"].keys() == {"conv_in.weight"}
    assert "running mean (model_ema) is not read" in caplog.text


def test_a_component_twice():
    names = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
    with pytest.raises(
        UserError, match="holds a component twice, under the prefixes .*; remove on"
    ):
        contents(*(f"{name}text_model.embeddings.token_embedding.weight" for name in names))


def test_a_running_mean_that_is_not_whole():
    with pytest.raises(
        UserError, match="x.safetensors holds no whole running mean .EMA. of a UNet"
    ):
        contents("model_ema.decay", ema=True)
