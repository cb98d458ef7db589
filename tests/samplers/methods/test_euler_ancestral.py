import numpy as np
import pytest

from flax_sd import samplers
from flax_sd.errors import UserError
from tests.samplers import loops
from tests.samplers.loops import SD, SPACINGS, assert_same_loop

EULER_A = "EulerAncestralDiscreteScheduler"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_loop_matches_diffusers(spacing, kind):
    config = {**SD, "timestep_spacing": spacing, "prediction_type": kind}
    for n in (1, 2, 7, 10, 50):
        assert_same_loop(EULER_A, {**config, "steps_offset": int(n > 2)}, n)


def test_zero_terminal_snr_matches_diffusers():
    """Below the first σ of 4096, which "leading" does not visit."""
    config = {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": "leading"}
    for kind in ("epsilon", "v_prediction"):
        assert_same_loop(EULER_A, {**config, "prediction_type": kind}, 10)


def test_a_single_step_from_zero_snr_does_not_cancel():
    """C7."""
    loops.assert_one_exact_step(EULER_A, "v_prediction")


def test_variances_add_up():
    """σ_down² + σ_up² = σ_next², where ε is weighted by σ_down - σ."""
    rows = samplers.from_config({"_class_name": EULER_A, **SD}, 10).rows
    sigma = np.sqrt(1 / rows.scale**2 - 1)
    dt, up = rows.state[:, 0, 1], rows.state[:, 0, 3]
    np.testing.assert_allclose((sigma + dt) ** 2 + up**2, np.append(sigma[1:] ** 2, 0), atol=1e-4)


def test_noise_is_drawn_at_every_step():
    assert samplers.from_config({"_class_name": EULER_A, **SD}, 4).draws.all()


def test_refuses_sample_prediction():
    with pytest.raises(UserError, match='prediction_type is "sample"'):
        samplers.from_config({"_class_name": EULER_A, "prediction_type": "sample"}, 4)
