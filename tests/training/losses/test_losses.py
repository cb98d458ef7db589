"""The two losses, on networks of four lines, against their formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from flax import nnx

from flax_sd.config import LossConfig, NoiseConfig, TimestepsConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.models.clip import TextStates
from flax_sd.models.vae import Moments
from flax_sd.training.losses import (
    DiffusionConfig,
    EncodedBatch,
    PixelBatch,
    diffusion_loss,
    merge,
    pixel_loss,
    vae_loss,
)
from flax_sd.training.losses.weights import min_snr
from tests.parity import LAYER, assert_close, to_torch

SCHEDULE = NoiseSchedule.from_config({"beta_schedule": "linear", "prediction_type": "epsilon"})


class UNet(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.float32(0.7))

    def __call__(self, latents, t, text):
        return (
            latents.astype(self.scale[...].dtype) * self.scale[...]
            + text.mean((1, 2))[:, None, None, None]
        )


class TextEncoder(nnx.Module):
    def __init__(self):
        self.table = nnx.Param(jnp.arange(12.0).reshape(4, 3))

    def __call__(self, ids, skip, normed):
        assert normed
        text = self.table[...][ids] * (skip + 1)
        return TextStates(text, text[:, 0])


class VAE(nnx.Module):
    def __init__(self):
        self.gain = nnx.Param(jnp.float32(0.5))

    def encode(self, pixels):
        mean = pixels[:, ::2, ::2, :2] * self.gain[...]
        return Moments(mean, mean - 1)

    def decode(self, latents):
        doubled = jnp.repeat(jnp.repeat(latents, 2, 1), 2, 2)
        return jnp.concatenate([doubled, doubled[..., :1]], -1)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def encoded(b: int = 3) -> EncodedBatch:
    moments = Moments(numbers(b, 4, 6, 2), numbers(b, 4, 6, 2, seed=1))
    return EncodedBatch(moments, TextStates(numbers(b, 5, 7, seed=2)))


def split(**modules: nnx.Module) -> tuple[dict[str, Any], ...]:
    """Graphs, trained leaves (all of them) and frozen ones (none)."""
    parts = {name: nnx.split(module, nnx.Param, ...) for name, module in modules.items()}
    return tuple({name: part[i] for name, part in parts.items()} for i in range(3))


def test_the_diffusion_loss_is_the_mean_squared_error_of_the_noise():
    graphs, params, none = split(unet=UNet())
    loss, batch = diffusion_loss(graphs, SCHEDULE, scaling_factor=0.3), encoded()
    draws = loss.draw(jax.random.key(1), batch)
    value = loss.loss(params, none, batch, draws)
    moments = batch.moments
    latents = 0.3 * (moments.mean + np.exp(0.5 * moments.logvar) * draws.posterior)
    a = np.asarray(SCHEDULE.alphas_cumprod)[np.asarray(draws.timesteps)][:, None, None, None]
    noisy = np.sqrt(a) * latents + np.sqrt(1 - a) * draws.noise
    out = 0.7 * noisy + batch.text.text.mean((1, 2))[:, None, None, None]
    assert_close(value, ((out - draws.noise) ** 2).mean((1, 2, 3)), LAYER)
    assert value.dtype == jnp.float32


def made_with(**options) -> tuple[Any, Any]:
    """What a loss of these options and the plain one make of the same draws."""
    graphs, params, none = split(unet=UNet())
    sections = {"loss": LossConfig, "timesteps": TimestepsConfig, "noise": NoiseConfig}
    given = {name: sections[name](**value) for name, value in options.items()}
    batch = encoded()
    plain = diffusion_loss(graphs, SCHEDULE, scaling_factor=0.3)
    ours = diffusion_loss(graphs, SCHEDULE, scaling_factor=0.3, cfg=DiffusionConfig(**given))
    draws = plain.draw(jax.random.key(1), batch)._replace(timesteps=jnp.array([3, 500, 990]))
    return tuple(made.loss(params, none, batch, draws) for made in (ours, plain))


def test_a_weight_multiplies_each_images_loss_by_that_of_its_timestep():
    ours, plain = made_with(loss={"weight": "min_snr", "gamma": 2.0})
    weight = min_snr(SCHEDULE, 2.0)[[3, 500, 990]]
    assert_close(ours, plain * weight, LAYER)
    assert float(weight[0]) < 0.01


def test_the_error_is_the_one_that_is_asked_for():
    absolute, squared = made_with(loss={"error": "l1"})
    huber, _ = made_with(loss={"error": "huber", "huber_c": 1.0})
    assert bool((absolute**2 < squared).all())  # Jensen
    assert bool((huber < squared).all())  # it grows more slowly than the square


def test_timesteps_and_noise_are_drawn_as_asked():
    cfg = DiffusionConfig(
        timesteps=TimestepsConfig(first=5, last=9, stratified=True),
        noise=NoiseConfig(offset=3.0, input_perturbation=0.1),
    )
    loss = diffusion_loss({}, SCHEDULE, scaling_factor=1.0, cfg=cfg)
    draws = loss.draw(jax.random.key(0), encoded(5))
    assert draws.timesteps.tolist() == [5, 6, 7, 8, 9]
    assert float(draws.noise.mean((1, 2)).std()) > 1.5
    assert float((draws.added - draws.noise).std()) == pytest.approx(0.1, rel=0.1)


def test_a_perturbed_input_leaves_the_target():
    graphs, params, none = split(unet=UNet())
    loss, batch = diffusion_loss(graphs, SCHEDULE, scaling_factor=0.3), encoded()
    draws = loss.draw(jax.random.key(1), batch)
    added = draws.noise + 0.1
    value = loss.loss(params, none, batch, draws._replace(added=added))
    latents = 0.3 * batch.moments.sample(draws.posterior)
    out = 0.7 * SCHEDULE.add_noise(latents, added, draws.timesteps)
    out += batch.text.text.mean((1, 2))[:, None, None, None]
    assert_close(value, ((out - draws.noise) ** 2).mean((1, 2, 3)), LAYER)


def test_draws_are_uniform_timesteps_and_unit_noise_of_the_batchs_shape():
    loss = diffusion_loss({}, SCHEDULE, scaling_factor=1.0)
    draws = loss.draw(jax.random.key(0), encoded(4000))
    t = np.asarray(draws.timesteps)
    assert t.shape == (4000,) and t.min() >= 0 and t.max() <= 999
    counts = np.histogram(t, 10, (0, 1000))[0]
    assert counts.min() > 300 and counts.max() < 500
    for noise in (draws.noise, draws.posterior):
        assert noise.shape == (4000, 4, 6, 2)
        assert abs(float(noise.mean())) < 0.01 and float(noise.std()) == pytest.approx(1, abs=0.01)
    assert not np.allclose(draws.noise, draws.posterior)


def test_ids_are_encoded_inside_the_loss_so_that_its_encoder_learns():
    graphs, params, none = split(unet=UNet(), text_encoder=TextEncoder())
    batch = encoded()._replace(text=(jnp.array([[0, 1], [2, 3], [1, 1]]),))
    gradients = []
    for skip in (0, 1):
        loss = diffusion_loss(graphs, SCHEDULE, scaling_factor=1.0, clip_skip=skip)
        draws = loss.draw(jax.random.key(1), batch)
        gradients.append(
            jax.grad(lambda p, loss=loss, draws=draws: loss.loss(p, none, batch, draws).sum())(
                params
            )
        )
    tables = [g["text_encoder"]["table"][...] for g in gradients]
    assert all(np.abs(table).sum() > 0 for table in tables)
    assert not np.allclose(tables[0], tables[1])


def test_ids_in_chunks_are_encoded_chunk_by_chunk():
    graphs, params, none = split(unet=UNet(), text_encoder=TextEncoder())
    loss = diffusion_loss(graphs, SCHEDULE, scaling_factor=1.0)
    chunks = jnp.array([[[0, 1, 2], [0, 3, 2]], [[0, 2, 2], [0, 1, 1]], [[3, 3, 3], [1, 1, 1]]])
    joined = jnp.array([[0, 1, 3, 2], [0, 2, 1, 1], [3, 3, 1, 1]])
    values = []
    for ids in (chunks, joined):  # alike, as this encoder reads each id by itself
        batch = encoded()._replace(text=(ids,))
        values.append(loss.loss(params, none, batch, loss.draw(jax.random.key(1), batch)))
    assert_close(*values, LAYER)


def test_trained_weights_are_cast_for_the_networks_and_have_float32_gradients():
    graphs, params, none = split(unet=UNet())
    seen = merge(graphs, params, none, "unet", jnp.dtype("bfloat16")).scale[...].dtype
    assert seen == jnp.bfloat16
    assert merge(graphs, params, none, "unet").scale[...].dtype == jnp.float32
    assert merge(graphs, {}, params, "unet", jnp.dtype("bfloat16")).scale[...].dtype == jnp.float32
    loss = diffusion_loss(graphs, SCHEDULE, scaling_factor=1.0, compute_dtype=jnp.dtype("bfloat16"))
    batch = encoded()
    draws = loss.draw(jax.random.key(1), batch)
    gradient = jax.grad(lambda p: loss.loss(p, none, batch, draws).mean())(params)
    assert gradient["unet"]["scale"][...].dtype == jnp.float32


@pytest.mark.parametrize(("kl_weight", "l1_weight"), [(0.0, 0.0), (0.0, 1.0), (0.25, 0.3)])
def test_the_autoencoders_loss_is_reconstruction_and_kl(kl_weight, l1_weight):
    graphs, params, none = split(vae=VAE())
    loss = vae_loss(graphs, stride=2, latent_channels=2, kl_weight=kl_weight, l1_weight=l1_weight)
    batch = PixelBatch(jnp.asarray(numbers(3, 4, 6, 3)))
    draws = loss.draw(jax.random.key(0), batch)
    assert draws.shape == (3, 2, 3, 2)
    value = loss.loss(params, none, batch, draws)
    moments = VAE().encode(batch.pixels)
    error = VAE().decode(moments.sample(draws)) - batch.pixels
    expected = (l1_weight * np.abs(error) + (1 - l1_weight) * error**2).mean((1, 2, 3))
    theirs = DiagonalGaussianDistribution(
        torch.cat([to_torch(moments.mean), to_torch(moments.logvar)], dim=1)
    )
    expected = expected + kl_weight * theirs.kl().numpy() / 12
    assert_close(value, expected, LAYER)


class Unconditional(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.float32(0.7))

    def __call__(self, pixels, t, keys=None):
        dropped = 0 if keys is None else keys[:, :1, None, None] % 2
        return pixels * self.scale[...] + dropped


def test_the_pixel_loss_is_the_mean_squared_error_of_the_noise():
    graphs, params, none = split(unet=Unconditional())
    batch = PixelBatch(jnp.asarray(numbers(3, 4, 6, 3)))
    loss = pixel_loss(graphs, SCHEDULE, dropout=True)
    draws = loss.draw(jax.random.key(1), batch)
    a = np.asarray(SCHEDULE.alphas_cumprod)[np.asarray(draws.timesteps)][:, None, None, None]
    noisy = np.sqrt(a) * batch.pixels + np.sqrt(1 - a) * draws.noise
    for keys, dropped in ((draws.dropout, draws.dropout[:, :1, None, None] % 2), (None, 0)):
        value = loss.loss(params, none, batch, draws._replace(dropout=keys))
        error = 0.7 * noisy + dropped - draws.noise
        assert_close(value, np.square(error).mean((1, 2, 3)), LAYER)
    assert pixel_loss(graphs, SCHEDULE).draw(jax.random.key(1), batch).dropout is None
    assert len(np.unique(draws.dropout, axis=0)) == 3
