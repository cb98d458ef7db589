"""A base model that predicts another type than its config says is refused before the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_sd import cli
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.models.clip import TextStates
from flax_sd.models.vae import Moments
from flax_sd.system import sharding
from flax_sd.training.losses import EncodedBatch, diffusion_loss
from flax_sd.training.prediction_check import SIDE, errors
from tests.training_runs import make_images

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
MEAN = 0.6  # of the latents


class Noise(nnx.Module):
    """Predicts noise: near pure noise that is what it reads."""

    def __call__(self, latents, t, text):
        return latents


class Velocity(nnx.Module):
    """Predicts velocity from what is alike in all images."""

    def __call__(self, latents, t, text):
        return 0.1 * latents - MEAN


class Zeros(nnx.Module):
    """A new network."""

    def __call__(self, latents, t, text):
        return 0 * latents


class Untrained(nnx.Module):
    """Random weights: what it says has to do with nothing."""

    def __call__(self, latents, t, text):
        return jax.random.normal(jax.random.key(5), latents.shape)


def batch(height=80, width=70):
    rng = np.random.default_rng(0)
    mean = MEAN + 0.7 * rng.normal(size=(3, height, width, 4)).astype(np.float32)
    moments = Moments(jnp.asarray(mean), jnp.full_like(mean, -8))
    weight = jnp.array([0.0, 2.0, 1.0])  # rows that fill a batch up weigh nothing
    return EncodedBatch(moments, TextStates(jnp.zeros((3, 4, 5))), weight=weight)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize(
    ("network", "said", "refused"),
    [
        (Noise, "epsilon", False),
        (Noise, "v_prediction", True),
        (Velocity, "v_prediction", False),
        (Velocity, "epsilon", True),
        *((new, said, False) for new in (Zeros, Untrained) for said in ("epsilon", "v_prediction")),
    ],
)
def test_what_a_network_predicts_shows_near_pure_noise(network, said, refused, zero_snr):
    if zero_snr and said == "epsilon":
        pytest.skip("a schedule that ends in pure noise is for velocity")
    raw = {**SCHEDULE, "prediction_type": said, "rescale_betas_zero_snr": zero_snr}
    graph, state = nnx.split(network())
    loss = diffusion_loss({"unet": graph}, NoiseSchedule.from_config(raw), scaling_factor=1.0)
    found = errors(loss, {}, {"unet": state}, batch(), sharding.make_mesh(1, 1))
    assert found is not None and found.tell_the_other == refused


def test_a_network_of_images_is_left_alone():
    graph, state = nnx.split(Zeros())
    schedule = NoiseSchedule.from_config({**SCHEDULE, "prediction_type": "sample"})
    loss = diffusion_loss({"unet": graph}, schedule, scaling_factor=1.0)
    assert errors(loss, {}, {"unet": state}, batch(), sharding.make_mesh(1, 1)) is None


def test_a_part_of_the_image_is_enough():
    seen = []

    class Sizes(nnx.Module):
        def __call__(self, latents, t, text):
            seen.append(latents.shape)
            return latents

    graph, state = nnx.split(Sizes())
    loss = diffusion_loss({"unet": graph}, NoiseSchedule.from_config(SCHEDULE), scaling_factor=1.0)
    errors(loss, {}, {"unet": state}, batch(128, 40), sharding.make_mesh(1, 1))
    assert set(seen) == {(1, SIDE, 40, 4)}


@pytest.mark.slow
def test_the_bundled_base_is_no_model_of_velocity(tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    make_images(pictures, 3)
    flags = ["--data.path", str(pictures), "--train.steps", "1", "--sample.every", "none"]
    flags += ["--data.resolution", "64", "--train.batch_size", "1"]
    wrong = [*flags, "--output", str(tmp_path / "a"), "--model.prediction_type", "v_prediction"]
    assert cli.train(wrong) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "model.prediction_type is v_prediction, and bundled:base predicts epsilon" in said
    assert "Set model.prediction_type epsilon" in said
    assert not (tmp_path / "a" / "lora.safetensors").exists()
    assert cli.train([*wrong, "--model.check_prediction", "false"]) == 0
    right = [*flags, "--output", str(tmp_path / "b"), "--model.prediction_type", "epsilon"]
    assert cli.train(right) == 0
