"""Weights of timesteps against golden values and their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from flax_sd.loss_weights import min_snr
from flax_sd.schedule import NoiseSchedule

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TIMES = jnp.array([0, 1, 100, 200, 400, 500, 600, 800, 999])
# Of sd-scripts' apply_snr_weight at gamma 5, run.
EPSILON = [0.00425372, 0.00853443, 0.591445, 1, 1, 1, 1, 1, 1]
VELOCITY = [
    *(0.00425011, 0.00851989, 0.528884, 0.753692, 0.424483),
    *(0.276332, 0.160782, 0.0368696, 0.00466009),
]


def schedule(prediction_type, **config):
    given = {**STABLE_DIFFUSION, "prediction_type": prediction_type, **config}
    return NoiseSchedule.from_config(given)


@pytest.mark.parametrize("kind, golden", [("epsilon", EPSILON), ("v_prediction", VELOCITY)])
def test_min_snr_is_sd_scripts(kind, golden):
    np.testing.assert_allclose(min_snr(schedule(kind), 5.0)(TIMES), golden, rtol=2e-5)


def test_min_snr_is_that_of_the_reference_scripts():
    import torch

    theirs = compute_snr(DDPMScheduler(**STABLE_DIFFUSION), torch.from_numpy(np.array(TIMES)))
    for gamma in (0.5, 5.0, 20.0):
        wanted = np.minimum(theirs.numpy(), gamma) / theirs.numpy()
        np.testing.assert_allclose(min_snr(schedule("epsilon"), gamma)(TIMES), wanted, rtol=1e-5)


@pytest.mark.parametrize("kind, last", [("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)])
def test_pure_noise_has_a_finite_weight(kind, last):
    weight = min_snr(schedule(kind, rescale_betas_zero_snr=True), 5.0)(jnp.arange(1000))
    assert bool(jnp.isfinite(weight).all()) and float(weight[-1]) == pytest.approx(last, abs=1e-6)
