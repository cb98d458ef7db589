import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.samplers.methods.ddpm import posterior
from tests import parity
from tests.samplers import loops
from tests.samplers.loops import SD, SPACINGS, assert_same_loop

DDPM = "DDPMScheduler"
LATENT = {**SD, "clip_sample": False}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_loop_matches_diffusers(spacing, kind):
    config = {**LATENT, "timestep_spacing": spacing, "prediction_type": kind}
    for n in (1, 2, 7, 10, 50):
        assert_same_loop(DDPM, config, n)
        assert_same_loop(DDPM, {**config, "steps_offset": 1}, n)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_fixed_variance_matches_diffusers(kind):
    assert_same_loop(DDPM, {**LATENT, "variance_type": kind}, 10)


def test_fixed_large_log_is_fixed_large():
    """Not diffusers' value, which is the root of a negative logarithm: NaN."""
    (large, log) = (
        samplers.from_config({"_class_name": DDPM, **SD, "variance_type": kind}, 10)
        for kind in ("fixed_large", "fixed_large_log")
    )
    np.testing.assert_array_equal(large.rows.state, log.rows.state)


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
@pytest.mark.parametrize("n", [1, 2, 10])
def test_learned_variance_matches_diffusers(kind, n):
    def network(xp, x, t, axis):
        raw = xp.cos(x + 0.01 * t)
        variance = raw**2 * 0.01 if kind == "learned" else raw
        return xp.concatenate([loops.network(xp, x, t), variance], axis)

    theirs = loops.reference(DDPM, {**SD, "variance_type": kind}, n)
    ours = samplers.from_config({"_class_name": DDPM, **SD, "variance_type": kind}, n)
    x, noise = loops.start(ours)
    generators = [torch.Generator().manual_seed(seed) for seed in loops.SEEDS]
    y = torch.cat([torch.randn(1, loops.C, loops.H, loops.W, generator=g) for g in generators])
    carry = ours.init(x)
    for i, t in enumerate(theirs.timesteps):
        y = theirs.step(network(torch, y, t, 1), t, y, generator=generators).prev_sample
        out = network(jnp, carry.x, ours.timesteps[i], -1)
        carry = ours.step(carry, out, i, None if noise is None else noise[i])
    parity.assert_close(carry.x, y, parity.LAYER)


def test_clipping_and_thresholding_match_diffusers():
    assert_same_loop(DDPM, {**SD, "clip_sample_range": 0.8}, 10)
    threshold = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0}
    assert_same_loop(DDPM, {**SD, **threshold}, 10)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_zero_terminal_snr_matches_diffusers(kind):
    config = {**LATENT, "rescale_betas_zero_snr": True, "prediction_type": kind}
    assert_same_loop(DDPM, {**config, "timestep_spacing": "trailing"}, 10)


@pytest.mark.parametrize(("t", "variance"), [(0, 0), (487, 0.00979), (999, 0.02)])
def test_posterior_variance_oracle(t, variance):
    """The values of diffusers' `test_variance`, with the paper's betas."""
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    previous = np.append(1.0, alphas)
    assert abs(posterior(alphas[t : t + 1], previous[t : t + 1])[2][0] - variance) < 1e-5


def test_no_draw_at_timestep_0():
    config = {"_class_name": DDPM, **SD}
    np.testing.assert_array_equal(samplers.from_config(config, 3).draws, [True, True, False])
    assert samplers.from_config({**config, "steps_offset": 1}, 3).draws.all()


@pytest.mark.parametrize(("kind", "channels"), [("learned", 4), ("fixed_small", 8)])
def test_refuses_a_network_of_other_width(kind, channels):
    sampler = samplers.from_config({"_class_name": DDPM, **SD, "variance_type": kind}, 2)
    x, out = jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 3, channels))
    with pytest.raises(
        UserError, match=f"{12 - channels} output channels, this one has {channels}"
    ):
        sampler.step(sampler.init(x), out, 0, x)
