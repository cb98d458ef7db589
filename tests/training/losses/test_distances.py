"""Distances against sd-scripts' formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd.config import LossConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.training.losses.distances import Distance, huber_c

SCHEDULE = NoiseSchedule.from_config(
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
)
TIMES = jnp.array([0, 100, 500, 999])
DIFFERENCE = np.random.default_rng(0).normal(0.3, 1, (4, 3, 5, 2)).astype(np.float32)


def distance(**given):
    return np.asarray(Distance.of(SCHEDULE, LossConfig(**given))(jnp.asarray(DIFFERENCE), TIMES))


def test_the_square_and_the_absolute():
    np.testing.assert_array_equal(distance(), np.square(DIFFERENCE))
    np.testing.assert_array_equal(distance(error="l1"), np.abs(DIFFERENCE))


def test_c_goes_with_the_timestep():
    t = np.asarray(TIMES)
    a = np.asarray(SCHEDULE.alphas_cumprod, np.float64)[t]
    wanted = {
        "constant": np.full(4, 0.2),
        "exponential": np.exp(-t * (-np.log(0.2) / 1000)),
        "snr": (1 - 0.2) / (1 + np.sqrt((1 - a) / a)) ** 2 + 0.2,
    }
    for name, values in wanted.items():
        cfg = LossConfig(error="huber", huber_c=0.2, huber_schedule=name)
        np.testing.assert_allclose(huber_c(SCHEDULE, cfg)[TIMES], values, rtol=1e-5)


@pytest.mark.parametrize("error", ["huber", "smooth_l1"])
def test_the_pseudo_huber_family(error):
    c = np.asarray(huber_c(SCHEDULE, LossConfig(error="huber"))[TIMES])[:, None, None, None]
    slope = c if error == "huber" else 1.0
    wanted = 2 * slope * (np.sqrt(DIFFERENCE**2 + c**2) - c)
    np.testing.assert_allclose(distance(error=error), wanted, rtol=1e-4, atol=1e-6)


def test_pure_noise_has_a_c():
    schedule = NoiseSchedule.from_config({"rescale_betas_zero_snr": True})
    c = huber_c(schedule, LossConfig(error="huber"))
    assert float(c[-1]) == pytest.approx(0.1) and bool(jnp.isfinite(c).all())
