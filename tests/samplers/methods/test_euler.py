import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_sd import samplers
from flax_sd.errors import UserError
from tests import parity
from tests.samplers import loops
from tests.samplers.loops import SD, SPACINGS, assert_same_loop, oracle_loop

EULER = "EulerDiscreteScheduler"
CHURN = {"s_churn": 3.0, "s_tmin": 0.1, "s_tmax": 9.0, "s_noise": 1.01}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_loop_matches_diffusers(spacing, kind):
    config = {**SD, "timestep_spacing": spacing, "prediction_type": kind}
    for n in (1, 2, 7, 10, 50):
        assert_same_loop(EULER, {**config, "steps_offset": int(n > 2)}, n)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_churn_matches_diffusers(kind):
    assert_same_loop(EULER, {**SD, "prediction_type": kind}, 10, **CHURN)
    assert_same_loop(EULER, {**SD, "prediction_type": kind}, 7, s_churn=100)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_zero_terminal_snr_matches_diffusers(kind):
    """Step by step from diffusers' x, against the size of what a step adds up.

    The first σ is 4096: x of that size cancels but for about 1, and the rounding that is left
    differs between any two machines.
    """
    config = {**SD, "rescale_betas_zero_snr": True, "prediction_type": kind}
    config["timestep_spacing"] = "trailing"
    theirs = loops.reference(EULER, config, 10)
    ours = samplers.from_config({"_class_name": EULER, **config}, 10)
    np.testing.assert_array_equal(ours.timesteps, theirs.timesteps)
    x = parity.to_torch(samplers.initial_noise([1, 2], 6, 5, 4)) * theirs.init_noise_sigma
    for i, t in enumerate(theirs.timesteps):
        mine, size = parity.from_torch(x), float(x.abs().max())
        x = theirs.step(loops.network(torch, theirs.scale_model_input(x, t), t), t, x).prev_sample
        out = loops.network(jnp, ours.scale_input(mine, i), ours.timesteps[i])
        mine = ours.step(ours.init(mine), out, i, None).x
        assert np.abs(mine - parity.from_torch(x)).max() <= parity.LAYER * size


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_a_single_step_from_zero_snr_does_not_cancel(kind):
    """C7."""
    loops.assert_one_exact_step(EULER, kind)


@pytest.mark.parametrize(
    ("config", "total"), [({}, 10.0807), ({"prediction_type": "v_prediction"}, 0.0002)]
)
def test_full_loop_oracle(config, total):
    found = oracle_loop(EULER, scaled=True, num_train_timesteps=1100, **config)
    assert abs(found - total) < 1e-2


def test_timesteps_and_sigmas_of_stable_diffusion():
    config = {"_class_name": EULER, **SD}
    leading = samplers.from_config({**config, "timestep_spacing": "leading"}, 10)
    assert leading.timesteps.dtype == jnp.float32
    assert abs(float(samplers.from_config(config, 10).init_noise_sigma) - 14.614647) < 1e-5
    shifted = {**config, "timestep_spacing": "leading", "steps_offset": 1}
    assert abs(float(samplers.from_config(shifted, 10).init_noise_sigma) - 8.450067) < 1e-5


def test_draws_follow_churn():
    config = {"_class_name": EULER, **SD}
    assert not samplers.from_config(config, 10).draws.any()
    assert samplers.from_config(config, 10, s_churn=1.0).draws.all()
    some = samplers.from_config(config, 10, **CHURN).draws
    assert some.any() and not some.all()


def test_two_rules_are_refused_by_name():
    config = {"use_karras_sigmas": True, "use_beta_sigmas": True}
    with pytest.raises(UserError) as error:
        samplers.from_config({"_class_name": EULER, **config}, 10)
    for name in config:
        assert name in str(error.value)


def test_options_at_their_defaults_are_taken():
    """What SDXL's file carries."""
    config = {"interpolation_type": "linear", "use_karras_sigmas": False, "sigma_min": None}
    ignored = {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
    samplers.from_config({"_class_name": EULER, **config, **ignored}, 10)
