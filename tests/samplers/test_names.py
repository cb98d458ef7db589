"""Names of samplers: ours, those of diffusers, of web UIs, of ComfyUI and of sd-scripts."""

import dataclasses

import pytest

from flax_sd import samplers
from flax_sd.diffusion.scheduler_config import ZERO_SNR_SAMPLERS
from flax_sd.errors import UserError

SD15 = {"_class_name": "PNDMScheduler", "beta_start": 0.00085, "timestep_spacing": "leading"}


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde", None),
        ("DPM++ 3M SDE Exponential", "dpmpp_3m_sde", "exponential"),
        ("Euler a", "euler_a", None),
        ("euler_ancestral", "euler_a", None),
        ("k_euler_a", "euler_a", None),
        ("DPM2 a Karras", "dpm2_a", "karras"),
        ("PLMS", "pndm", None),
        ("UniPCMultistepScheduler", "unipc", None),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", None),
        ("sgm_uniform", None, "sgm_uniform"),
        ("DDIM uniform", None, "ddim_uniform"),
        ("Euler SGM Uniform", "euler", "sgm_uniform"),
    ],
)
def test_find(name, sampler, schedule):
    assert samplers.find(name) == (sampler, schedule)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_every_spelling_finds_its_row(name):
    entry = samplers.SAMPLERS[name]
    for spelling in (name, entry.title, *entry.aliases):
        assert samplers.find(spelling) == (name, None)
    assert samplers.SAMPLERS[samplers.find(entry.class_name).sampler].class_name == entry.class_name


def test_a_schedule_sets_the_fields_of_the_class():
    config = samplers.by_name("DPM++ 2M SDE Karras", SD15)
    assert config["use_karras_sigmas"] and config["algorithm_type"] == "sde-dpmsolver++"
    alone = samplers.by_name("sgm_uniform", SD15)
    assert alone == {**SD15, "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eulr", r"there is no sampler 'eulr' \(did you mean euler\?\)"),
        ("DDIM Karras", "ddim has no karras, as diffusers' DDIMScheduler does not read use_karras"),
    ],
)
def test_refuses(name, message):
    with pytest.raises(UserError, match=message):
        samplers.find(name)


@pytest.mark.parametrize(
    ("name", "config", "full", "web"),
    [
        (None, SD15, "pndm", ("PLMS", None)),
        ("karras", {"_class_name": "HeunDiscreteScheduler"}, "heun_karras", ("Heun", "Karras")),
        ("DPM++ 2M Karras", SD15, "dpmpp_2m_karras", ("DPM++ 2M", "Karras")),
        (
            None,
            {
                "_class_name": "DPMSolverMultistepScheduler",
                "algorithm_type": "sde-dpmsolver++",
                "use_karras_sigmas": True,
            },
            "dpmpp_2m_sde_karras",
            ("DPM++ 2M SDE", "Karras"),
        ),
        (None, {"_class_name": "Another"}, "Another", ("Another", None)),
    ],
)
def test_full_names_and_those_of_web_uis(name, config, full, web):
    assert samplers.full_name(name, config) == full
    assert samplers.web_names(full) == web


def test_zero_snr_is_of_the_classes_that_read_its_fields():
    wanted = {"rescale_betas_zero_snr", "timestep_spacing"}
    reading = {
        entry.class_name
        for entry in samplers.SAMPLERS.values()
        if wanted <= {field.name for field in dataclasses.fields(entry.config_class)}
    }
    assert reading - {"DDIMInverseScheduler", "DDPMScheduler"} == set(ZERO_SNR_SAMPLERS)
