"""Weights of timesteps against golden values and their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from flax_sd.config import LossConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError
from flax_sd.training.losses.weights import debiased, min_snr, p2, soft_min_snr, timestep_weights

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TIMES = jnp.array([0, 1, 100, 200, 400, 500, 600, 800, 999])
# Of sd-scripts' apply_snr_weight at gamma 5, run.
EPSILON = [0.00425372, 0.00853443, 0.591445, 1, 1, 1, 1, 1, 1]
VELOCITY = [
    *(0.00425011, 0.00851989, 0.528884, 0.753692, 0.424483),
    *(0.276332, 0.160782, 0.0368696, 0.00466009),
]
DEBIASED = [
    *(0.0316228, 0.0413145, 0.343932, 0.571666, 1.16439),
    *(1.61828, 2.28464, 5.11103, 14.6146),
]
DEBIASED_VELOCITY = [
    *(0.000999001, 0.00170398, 0.105777, 0.246308, 0.575517),
    *(0.723668, 0.839218, 0.96313, 0.99534),
]


def schedule(prediction_type, **config):
    given = {**STABLE_DIFFUSION, "prediction_type": prediction_type, **config}
    return NoiseSchedule.from_config(given)


@pytest.mark.parametrize("kind, golden", [("epsilon", EPSILON), ("v_prediction", VELOCITY)])
def test_min_snr_is_sd_scripts(kind, golden):
    np.testing.assert_allclose(min_snr(schedule(kind), 5.0)[TIMES], golden, rtol=2e-5)


def test_min_snr_is_that_of_the_reference_scripts():
    import torch

    theirs = compute_snr(DDPMScheduler(**STABLE_DIFFUSION), torch.from_numpy(np.array(TIMES)))
    for gamma in (0.5, 5.0, 20.0):
        wanted = np.minimum(theirs.numpy(), gamma) / theirs.numpy()
        np.testing.assert_allclose(min_snr(schedule("epsilon"), gamma)[TIMES], wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_min_snr_of_a_large_gamma_weighs_the_error_of_the_noise(kind):
    """D: as diffusers' train_unconditional.py for `sample`: SNR times the error of x_0.

    And as sd-scripts' scale_v_pred_loss_like_noise_pred: SNR / (SNR + 1) times that of velocity.
    """
    snr = schedule(kind).snr(TIMES)
    wanted = snr if kind == "sample" else snr / (snr + 1)
    np.testing.assert_allclose(min_snr(schedule(kind), 1e5)[TIMES], wanted, rtol=1e-6)


@pytest.mark.parametrize("kind, last", [("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)])
def test_pure_noise_has_a_finite_weight(kind, last):
    """Trap 18: SNR is 0 at the end; for velocity min(SNR, γ) is divided by SNR + 1."""
    weight = min_snr(schedule(kind, rescale_betas_zero_snr=True), 5.0)
    assert bool(jnp.isfinite(weight).all()) and float(weight[-1]) == pytest.approx(last, abs=1e-6)


@pytest.mark.parametrize(
    "kind, golden", [("epsilon", DEBIASED), ("v_prediction", DEBIASED_VELOCITY)]
)
def test_debiased_is_sd_scripts(kind, golden):
    """A11: at t = 0 the SNR is 1175, and counts as 1000 for either output."""
    np.testing.assert_allclose(debiased(schedule(kind))[TIMES], golden, rtol=2e-5)


def test_soft_min_snr_is_k_diffusions():
    """Its weight is of the error of a target of unit variance, c_out² of x_0's."""
    for spread in (0.5, 1.0):
        weight = soft_min_snr(schedule("sample"), spread**-2)[TIMES]
        sigma2 = 1 / np.asarray(schedule("sample").snr(TIMES), np.float64)
        theirs = sigma2 * spread**2 / (sigma2 + spread**2) ** 2
        c_out2 = sigma2 * spread**2 / (sigma2 + spread**2)
        np.testing.assert_allclose(weight, theirs / c_out2, rtol=1e-5)


def test_p2_is_onetrainers():
    snr = np.asarray(schedule("epsilon").snr(TIMES), np.float64)
    np.testing.assert_allclose(p2(schedule("epsilon"), 0.7)[TIMES], (1 + snr) ** -0.7, rtol=1e-5)
    velocity = p2(schedule("v_prediction"), 0.7)[TIMES]
    np.testing.assert_allclose(velocity, (2 + snr) ** -0.7, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda s: min_snr(s, 5.0), lambda s: soft_min_snr(s, 4.0)])
def test_the_three_outputs_weigh_the_same_error(make):
    """e(noise) = SNR · e(x_0) and e(velocity) = (SNR + 1) · e(x_0)."""
    snr = np.asarray(schedule("sample").snr(TIMES))
    of_x0 = make(schedule("sample"))[TIMES]
    np.testing.assert_allclose(make(schedule("epsilon"))[TIMES] * snr, of_x0, rtol=1e-5)
    np.testing.assert_allclose(make(schedule("v_prediction"))[TIMES] * (snr + 1), of_x0, rtol=1e-5)


def test_the_config_names_weight_and_gamma():
    epsilon = schedule("epsilon")
    assert timestep_weights(epsilon, LossConfig()) is None
    for name, function, usual in (
        ("min_snr", min_snr, 5.0),
        ("soft_min_snr", soft_min_snr, 4.0),
        ("p2", p2, 1.0),
    ):
        for gamma, wanted in ((None, usual), (0.3, 0.3)):
            made = timestep_weights(epsilon, LossConfig(weight=name, gamma=gamma))
            np.testing.assert_array_equal(made[TIMES], function(epsilon, wanted)[TIMES])
    made = timestep_weights(epsilon, LossConfig(weight="debiased"))
    np.testing.assert_array_equal(made[TIMES], debiased(epsilon)[TIMES])


def test_an_infinite_weight_is_refused():
    for kind in ("v_prediction", "sample"):
        last = debiased(schedule(kind, rescale_betas_zero_snr=True))[[999]]
        assert bool(jnp.isfinite(last).all())
    with pytest.raises(UserError, match="debiased is infinite where"):
        debiased(schedule("epsilon", rescale_betas_zero_snr=True))
