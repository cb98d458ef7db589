import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd import samplers
from flax_sd.errors import UserError
from tests.samplers.loops import SD, SPACINGS, assert_same_loop, oracle_loop

DDIM = "DDIMScheduler"
LATENT = {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_loop_matches_diffusers(spacing, kind):
    config = {**LATENT, "timestep_spacing": spacing, "prediction_type": kind}
    for n in (1, 2, 7, 10, 50):
        assert_same_loop(DDIM, {**config, "steps_offset": int(n > 1)}, n)


@pytest.mark.parametrize("eta", [0.4, 1])
def test_stochastic_loop_matches_diffusers(eta):
    assert_same_loop(DDIM, LATENT, 10, eta=eta)
    assert_same_loop(DDIM, {**LATENT, "set_alpha_to_one": True}, 7, eta=eta)


def test_clipping_matches_diffusers():
    assert_same_loop(DDIM, {**SD, "clip_sample_range": 0.7}, 10)
    assert_same_loop(DDIM, {**SD, "clip_sample_range": 0.7}, 10, use_clipped_model_output=True)


def test_thresholding_matches_diffusers():
    config = {"thresholding": True, "dynamic_thresholding_ratio": 0.83, "sample_max_value": 1.4}
    assert_same_loop(DDIM, {**SD, **config}, 10)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_zero_terminal_snr_matches_diffusers(kind):
    config = {**LATENT, "rescale_betas_zero_snr": True, "prediction_type": kind}
    assert_same_loop(DDIM, {**config, "timestep_spacing": "trailing"}, 10, eta=0.5)


def test_one_step_too_many_of_trailing_is_kept():
    """For 61 steps diffusers' rounding adds a 62nd at t = -1."""
    assert_same_loop(DDIM, {**LATENT, "timestep_spacing": "trailing"}, 61)


@pytest.mark.parametrize(
    ("config", "total"),
    [
        ({}, 172.0067),
        ({"prediction_type": "v_prediction"}, 52.5302),
        ({"set_alpha_to_one": True, "beta_start": 0.01}, 149.8295),
        ({"set_alpha_to_one": False, "beta_start": 0.01}, 149.0784),
    ],
)
def test_full_loop_oracle(config, total):
    assert abs(oracle_loop(DDIM, **config) - total) < 1e-2


def test_draws_follow_eta():
    config = {"_class_name": DDIM, **LATENT}
    assert not samplers.from_config(config, 5).draws.any()
    assert samplers.from_config(config, 5, eta=0.1).draws.all()


def test_timesteps_of_stable_diffusion():
    timesteps = samplers.from_config({"_class_name": DDIM, **LATENT}, 50).timesteps
    assert timesteps.dtype == jnp.int32
    np.testing.assert_array_equal(timesteps, np.arange(981, 0, -20))


@pytest.mark.parametrize(
    ("config", "n", "options", "message"),
    [
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 5, {}, "timestep 999"),
        ({}, 0, {}, "num_inference_steps is 0: should be a whole number from 1 to 1000"),
        ({}, 1001, {}, "num_inference_steps is 1001"),
        ({"steps_offset": 1}, 1000, {}, "timestep 1000; the last is 999"),
        ({}, 5, {"eta": 3.0}, "eta is 3.0"),
    ],
)
def test_refuses(config, n, options, message):
    with pytest.raises(UserError, match=message):
        samplers.from_config({"_class_name": DDIM, **SD, **config}, n, **options)


def test_noise_is_asked_for():
    sampler = samplers.from_config({"_class_name": DDIM, **LATENT}, 5, eta=1.0)
    x = jnp.ones((1, 2, 3, 4))
    with pytest.raises(UserError, match="draws noise"):
        sampler.step(sampler.init(x), x, 0, None)
