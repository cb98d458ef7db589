"""Choosing a sampler: by a config's class, by name, with options."""

import inspect
import json
import pathlib

import diffusers
import jax
import numpy as np
import pytest

import flax_sd.samplers as samplers
from flax_sd.errors import UserError
from tests.samplers import loops

# The files of SD 1.5 and SD 2.1, and one with values that only some classes read.
SD15 = {
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
    "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
    "clip_sample": False,
}  # fmt: skip
SD21 = {**SD15, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
ZERO = {**SD21, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def read_back(config, folder):
    """The config as diffusers has it after reading the file."""
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    return getattr(diffusers, config["_class_name"]).from_pretrained(folder).config


@pytest.mark.parametrize("name", samplers.SAMPLERS)
@pytest.mark.parametrize("config", [SD15, SD21, ZERO], ids=["sd15", "sd21", "zero_snr"])
def test_by_name_converts_as_from_config_does(name, config, tmp_path: pathlib.Path):
    class_name, own = samplers.SAMPLERS[name].class_name, samplers.SAMPLERS[name].config
    converted = samplers.by_name(name, config)
    assert converted["_class_name"] == class_name
    live = {**read_back(config, tmp_path), **own}
    theirs = loops.reference(class_name, live, 5, convert=True)
    fields = inspect.signature(type(theirs)).parameters.keys() - {"kwargs"}
    same = loops.reference(class_name, {k: v for k, v in converted.items() if k in fields}, 5)
    assert {k: same.config[k] for k in fields} == {k: theirs.config[k] for k in fields}
    ours = samplers.from_config(converted, 5).timesteps
    np.testing.assert_allclose(ours, theirs.timesteps, rtol=1e-6, atol=1e-6)


def test_by_name_takes_a_live_config(tmp_path: pathlib.Path):
    """What a class only has by default does not move to another: Euler keeps its linspace."""
    live = dict(read_back(SD15, tmp_path))
    assert live["timestep_spacing"] == "leading"
    theirs = loops.reference("EulerDiscreteScheduler", live, 7, convert=True)
    ours = samplers.from_config(samplers.by_name("euler", live), 7)
    np.testing.assert_array_equal(ours.timesteps, theirs.timesteps)


def test_every_sampler_is_a_pytree():
    for name in samplers.SAMPLERS:
        sampler = samplers.from_config(samplers.by_name(name, SD15), 5)
        leaves, structure = jax.tree.flatten(sampler)
        again = jax.tree.unflatten(structure, leaves)
        np.testing.assert_array_equal(again.timesteps, sampler.timesteps)
        assert jax.tree.structure(jax.eval_shape(lambda s: s, sampler)) == structure


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, {}, "supported are DDIMScheduler, DDPM"),
        ({}, {}, "_class_name None"),
        (SD21, {"s_churn": 1.0}, "s_churn is unknown: it has eta, use_clipped_model_output"),
        (SD15, {"eta": 1.0}, "eta is unknown: it has none"),
        (SD21, {"eta": "much"}, "eta is 'much': should be a number"),
        ({**SD15, "timestep_spacing": "even"}, {}, 'timestep_spacing is "even": should be'),
    ],
)
def test_refuses(config, options, message):
    with pytest.raises(UserError, match=message):
        samplers.from_config(config, 5, **options)


def test_by_name_names_the_near_one():
    with pytest.raises(UserError, match=r"did you mean euler\?.*euler_a"):
        samplers.by_name("eulr", SD15)
