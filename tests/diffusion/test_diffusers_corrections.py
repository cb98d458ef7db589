"""Old configs: what diffusers' own pipeline makes of them."""

import warnings

import diffusers
import pytest

from flax_sd import samplers
from flax_sd.diffusion import diffusers_corrections

OLD = {"_class_name": "DDIMScheduler", "beta_end": 0.012, "clip_sample": True, "steps_offset": 0}
UNSET = {"_class_name": "PNDMScheduler", "beta_end": 0.012}


def in_a_pipeline(raw, unet=None):
    """The scheduler and UNet after `StableDiffusionPipeline.__init__`."""
    scheduler = getattr(diffusers, raw["_class_name"]).from_config(raw)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the corrections are announced as deprecations
        return diffusers.StableDiffusionPipeline(
            scheduler=scheduler,
            unet=unet,
            feature_extractor=None,
            requires_safety_checker=False,
            **parts,
        )


@pytest.mark.parametrize("raw", [OLD, UNSET, UNSET | {"_class_name": "DDPMScheduler"}])
def test_the_checkpoints_own_class(raw):
    theirs = in_a_pipeline(raw).scheduler.config
    ours = diffusers_corrections.scheduler_in_use(raw)
    assert ours["steps_offset"] == theirs["steps_offset"] == 1
    assert ours["clip_sample"] is theirs.get("clip_sample", False) is False
    assert {k: v for k, v in ours.items() if k in raw and raw[k] == v}.keys() >= {"beta_end"}


def test_a_live_config_is_corrected_too():
    live = {"_class_name": "DDIMScheduler", **diffusers.DDIMScheduler().config}
    assert "steps_offset" in live["_use_default_values"]
    used = samplers.from_config(diffusers_corrections.scheduler_in_use(live), 10)
    assert used.timesteps.tolist() == [100 * i + 1 for i in range(9, -1, -1)]


@pytest.mark.parametrize("raw", [OLD, UNSET])
def test_another_class(raw):
    theirs = in_a_pipeline(raw)
    converted = diffusers.DDPMScheduler.from_config(theirs.scheduler.config).config
    ours = samplers.by_name("ddpm", diffusers_corrections.scheduler_to_convert(raw))
    read = diffusers.DDPMScheduler.from_config(ours).config
    assert {key: read[key] for key in read if not key.startswith("_")} == {
        key: converted[key] for key in converted if not key.startswith("_")
    }


@pytest.mark.parametrize(
    "size, version, expected",
    [
        (32, "0.8.1", 64),
        (64, "0.8.1", 64),
        (96, "0.6.0", 96),
        (32, "0.9.0", 32),
        (16, "0.42.1", 16),
    ],
)
def test_the_size_that_old_unets_were_trained_on(size, version, expected):
    raw = {"sample_size": size, "_diffusers_version": version}
    assert diffusers_corrections.sample_size(raw) == (expected, expected)


def test_sizes_of_other_forms():
    assert diffusers_corrections.sample_size({"sample_size": [6, 8]}) == (6, 8)
    assert diffusers_corrections.sample_size({"sample_size": None}) == (64, 64)
    assert diffusers_corrections.sample_size({}) == (64, 64)
