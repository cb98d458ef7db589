import jax
import numpy as np
import pytest

from flax_sd import samplers
from flax_sd.errors import UserError
from tests.samplers import loops
from tests.samplers.loops import SD, SPACINGS, assert_same_loop, oracle_loop

PNDM = "PNDMScheduler"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_plms_loop_matches_diffusers(spacing, kind):
    config = {**SD, "timestep_spacing": spacing, "prediction_type": kind, "skip_prk_steps": True}
    for n in (1, 2, 3, 4, 7, 10, 50):
        assert_same_loop(PNDM, {**config, "steps_offset": int(n > 2)}, n)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_prk_loop_matches_diffusers(spacing, kind):
    config = {**SD, "timestep_spacing": spacing, "prediction_type": kind}
    for n in (4, 7, 10, 50):
        assert_same_loop(PNDM, {**config, "set_alpha_to_one": n == 7}, n)


def test_zero_snr_is_not_read():
    """diffusers' class has no such field: its betas stay as they are."""
    config = {"_class_name": PNDM, **SD, "skip_prk_steps": True}
    plain, rescaled = (
        samplers.from_config({**config, "rescale_betas_zero_snr": flag}, 5)
        for flag in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, rescaled)


def test_timesteps_oracle():
    """diffusers' `test_steps_offset`, and SD's 51 calls for 50 steps."""
    config = {"_class_name": PNDM, "steps_offset": 1}
    prk = [901, 851, 851, 801, 801, 751, 751, 701, 701, 651, 651, 601]
    expected = [*prk, 601, 501, 401, 301, 201, 101, 1]
    np.testing.assert_array_equal(samplers.from_config(config, 10).timesteps, expected)
    timesteps = samplers.from_config({**config, "skip_prk_steps": True}, 50).timesteps
    assert timesteps.shape == (51,)
    np.testing.assert_array_equal(timesteps[:4], [981, 961, 961, 941])


@pytest.mark.parametrize(
    ("config", "total"),
    [
        ({}, 198.1318),
        ({"prediction_type": "v_prediction"}, 67.3986),
        ({"set_alpha_to_one": True, "beta_start": 0.01}, 230.0399),
        ({"set_alpha_to_one": False, "beta_start": 0.01}, 186.9482),
    ],
)
def test_full_loop_oracle(config, total):
    """The reference's test resets its history between PRK and PLMS no more than a loop does."""
    assert abs(oracle_loop(PNDM, **config) - total) < 1e-2


def test_eager_steps_equal_the_scan():
    sampler = samplers.from_config({"_class_name": PNDM, **SD}, 5)
    x, _ = loops.start(sampler)
    carry = sampler.init(x)
    for i, t in enumerate(sampler.timesteps):
        carry = sampler.step(carry, loops.network(jax.numpy, carry.x, t), i, None)
    np.testing.assert_allclose(carry.x, loops.our_loop(sampler, x, None), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "n", "message"),
    [
        ({}, 3, "need at least 4"),
        ({"prediction_type": "sample"}, 10, 'prediction_type is "sample"'),
    ],
)
def test_refuses(config, n, message):
    with pytest.raises(UserError, match=message):
        samplers.from_config({"_class_name": PNDM, **SD, **config}, n)
