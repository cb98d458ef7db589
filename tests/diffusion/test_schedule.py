import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError
from tests import parity

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = ("epsilon", "v_prediction", "sample")


def both(config):
    return NoiseSchedule.from_config(config), diffusers.DDPMScheduler(**config)


def draws():
    """x_0, noise and timesteps of a batch, in both layouts."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, 6, 5, generator=generator) for _ in range(2))
    return x0, noise, torch.tensor([0, 437, 999])


@pytest.mark.parametrize(
    "config",
    [
        {},
        SD,
        {"num_train_timesteps": 37},
        {"num_train_timesteps": 1},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.3, 0.35]},
        {"trained_betas": np.array([0.1, 0.3])},
    ],
)
def test_alphas_cumprod_match_diffusers(config):
    ours, theirs = both(config)
    assert ours.alphas_cumprod.dtype == np.float32
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-7, atol=0)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_matches_diffusers(schedule):
    """To a few bits: torch's vector square root is not rounded correctly on every machine."""
    ours, theirs = both({"beta_schedule": schedule, "rescale_betas_zero_snr": True})
    assert ours.alphas_cumprod[-1] == 0
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=0, atol=5e-7)


def test_values_of_stable_diffusion():
    alphas = NoiseSchedule.from_config(SD).alphas_cumprod
    expected = [0.99914998, 0.998296, 0.8942232, 0.2763325, 0.0046601]
    np.testing.assert_allclose(alphas[np.array([0, 1, 100, 500, 999])], expected, atol=5e-8)


def test_add_noise_and_velocity_match_diffusers():
    ours, theirs = both(SD)
    x0, noise, t = draws()
    args = parity.from_torch(x0), parity.from_torch(noise), t.numpy()
    parity.assert_close(ours.add_noise(*args), theirs.add_noise(x0, noise, t), parity.LAYER)
    parity.assert_close(ours.velocity(*args), theirs.get_velocity(x0, noise, t), parity.LAYER)


@pytest.mark.parametrize("kind", KINDS)
def test_target_predicts_back(kind):
    """A network that puts out the target gives x_0 and the noise (eq. 15 undoes eq. 4)."""
    schedule = NoiseSchedule.from_config({**SD, "prediction_type": kind})
    x0, noise, _ = (tensor.numpy() for tensor in draws())
    t = np.array([3, 437, 800])
    x, out = schedule.add_noise(x0, noise, t), schedule.target(x0, noise, t)
    parity.assert_close(schedule.predict_x0(x, out, t), x0, 1e-4)
    parity.assert_close(schedule.predict_epsilon(x, out, t), noise, 1e-4)


def test_target_is_that_of_the_training_script():
    x0, noise, t = (tensor.numpy() for tensor in draws())
    schedules = [NoiseSchedule.from_config({**SD, "prediction_type": kind}) for kind in KINDS]
    epsilon, v, sample = (schedule.target(x0, noise, t) for schedule in schedules)
    np.testing.assert_array_equal(epsilon, noise)
    np.testing.assert_array_equal(v, schedules[1].velocity(x0, noise, t))
    np.testing.assert_array_equal(sample, x0)


def test_snr_matches_diffusers():
    """Its `training_utils.compute_snr` is (√ᾱ / √(1 - ᾱ))²."""
    ours, theirs = both(SD)
    t = torch.tensor([0, 10, 500, 999])
    expected = (theirs.alphas_cumprod**0.5 / (1 - theirs.alphas_cumprod) ** 0.5)[t] ** 2
    parity.assert_close(ours.snr(t.numpy()), expected, parity.LAYER)


def test_one_timestep_for_the_whole_batch():
    schedule = NoiseSchedule.from_config(SD)
    x0, noise, _ = (tensor.numpy() for tensor in draws())
    one, each = schedule.add_noise(x0, noise, 7), schedule.add_noise(x0, noise, np.full(3, 7))
    np.testing.assert_array_equal(one, each)


def test_is_a_pytree_that_transforms():
    schedule = NoiseSchedule.from_config({**SD, "prediction_type": "v_prediction"})
    x = jnp.ones((2, 3, 4, 5))
    target = jax.jit(lambda s, t: s.target(x, x, t))(schedule, jnp.array([1, 2]))
    np.testing.assert_allclose(target, schedule.target(x, x, jnp.array([1, 2])), rtol=1e-6)
    assert jax.eval_shape(lambda s: s, schedule).prediction_type == "v_prediction"
    each = jax.vmap(lambda s, t: s.snr(t), in_axes=(None, 0))(schedule, jnp.arange(3))
    np.testing.assert_allclose(each, schedule.snr(jnp.arange(3)), rtol=1e-6)


def test_reads_the_file_of_any_class():
    """Fields of other classes, private ones and class defaults of a live config are not read."""
    config = {
        **SD,
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "skip_prk_steps": True,
        "clip_sample": False,
        "trained_betas": None,
        "prediction_type": "nonsense",
        "_use_default_values": ["prediction_type"],
    }
    schedule = NoiseSchedule.from_config(config)
    assert schedule.prediction_type == "epsilon"
    np.testing.assert_array_equal(
        schedule.alphas_cumprod, NoiseSchedule.from_config(SD).alphas_cumprod
    )


def test_every_bad_field_is_named():
    config = {"beta_schedule": "sigmoid", "prediction_type": "flow", "beta_start": "low"}
    with pytest.raises(UserError) as error:
        NoiseSchedule.from_config({**config, "num_train_timesteps": 0})
    for name in (*config, "num_train_timesteps", "'scaled_linear'"):
        assert name in str(error.value)
