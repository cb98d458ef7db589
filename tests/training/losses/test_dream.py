"""DREAM against diffusers' own function, through the losses that have the option."""

import types

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_dream_and_update_latents

from flax_sd.config import LossConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError
from flax_sd.training.losses import DiffusionConfig, PixelBatch, pixel_loss
from tests.parity import LAYER, assert_close, to_torch
from tests.training.losses.test_losses import SCHEDULE, Unconditional, numbers, split


@pytest.mark.parametrize("preservation", [1.0, 2.5])
def test_input_and_target_are_those_of_diffusers(preservation):
    graphs, params, none = split(unet=Unconditional())
    cfg = DiffusionConfig(LossConfig(dream=preservation))
    loss = pixel_loss(graphs, SCHEDULE, cfg=cfg)
    batch = PixelBatch(jnp.asarray(numbers(3, 4, 6, 3)))
    draws = loss.draw(jax.random.key(1), batch)
    theirs = diffusers.DDPMScheduler(beta_schedule="linear")
    noise, t = to_torch(draws.noise), torch.tensor(np.asarray(draws.timesteps))
    noisy = theirs.add_noise(to_torch(batch.pixels), noise, t)
    noisy, target = compute_dream_and_update_latents(
        lambda x, t, text: types.SimpleNamespace(sample=0.7 * x),
        theirs,
        t,
        noise,
        noisy,
        noise,
        None,
        preservation,
    )
    expected = (0.7 * noisy - target).square().mean((1, 2, 3))
    assert_close(loss.loss(params, none, batch, draws), expected.numpy(), LAYER)
    # The network's guess has no gradient: d/dw of (w x - target)^2.
    wanted = (2 * noisy * (0.7 * noisy - target)).mean()
    gradient = jax.grad(lambda p: loss.loss(p, none, batch, draws).mean())(params)
    assert_close(gradient["unet"]["scale"][...], wanted.numpy(), LAYER)


def test_it_is_for_models_of_noise():
    graphs, _, _ = split(unet=Unconditional())
    velocity = NoiseSchedule.from_config({"prediction_type": "v_prediction"})
    with pytest.raises(UserError, match=r"loss\.dream is for models that predict epsilon"):
        pixel_loss(graphs, velocity, cfg=DiffusionConfig(LossConfig(dream=1)))
