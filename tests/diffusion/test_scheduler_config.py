import pytest

from flax_sd.diffusion.scheduler_config import overridden
from flax_sd.errors import UserError

SD15 = {"_class_name": "PNDMScheduler", "beta_start": 0.00085, "prediction_type": "epsilon"}


def test_without_changes_it_is_as_it_was():
    assert overridden(SD15, None, zero_snr=False) == SD15


def test_another_prediction_type():
    changed = overridden(SD15, "v_prediction", zero_snr=False)
    assert changed == {**SD15, "prediction_type": "v_prediction"}
    assert SD15["prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("own", "becomes"),
    [
        ("PNDMScheduler", "DDIMScheduler"),
        ("DDPMScheduler", "DDIMScheduler"),
        ("EulerDiscreteScheduler", "EulerDiscreteScheduler"),
        ("UniPCMultistepScheduler", "UniPCMultistepScheduler"),
    ],
)
def test_pure_noise_at_the_end_wants_a_class_that_reads_it(own, becomes):
    changed = overridden({**SD15, "_class_name": own}, "v_prediction", zero_snr=True)
    assert changed["_class_name"] == becomes
    assert changed["rescale_betas_zero_snr"] and changed["timestep_spacing"] == "trailing"


def test_a_field_that_is_set_is_no_default_any_more():
    raw = {**SD15, "_use_default_values": ["prediction_type", "steps_offset"]}
    changed = overridden(raw, "v_prediction", zero_snr=False)
    assert changed["_use_default_values"] == ["steps_offset"]


def test_pure_noise_is_refused_with_a_prediction_of_the_noise():
    with pytest.raises(UserError, match="zero_snr: the last timestep .* v_prediction as well"):
        overridden(SD15, None, zero_snr=True)
