"""A batch that is filled up trains as one that is not, in one part or in several."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_sd.training.losses import PixelBatch, PlainLoss, diffusion_loss, vae_loss
from flax_sd.training.step import init_state, make_train_step
from tests.parity import LAYER, assert_close
from tests.training.losses.test_losses import SCHEDULE, VAE, UNet, encoded, numbers, split

REAL = [1, 2, 5]  # rows of six
WEIGHT = np.array([0, 2, 2, 0, 0, 2], np.float32)


def trained(loss, leaves, batch, draws, parts=1):
    """The weights after a step of gradient descent, and the step's loss."""
    fed = PlainLoss(
        lambda key, pair: pair[1], lambda p, f, pair, draws: loss.loss(p, f, pair[0], draws)
    )
    params, frozen = jax.tree.map(jnp.copy, leaves)
    tx = optax.sgd(1.0)
    state = init_state(params, tx, 0, scaled=False)
    state, metrics = make_train_step(fed, tx, accumulate=parts)(state, frozen, (batch, draws))
    assert not metrics.failed
    return jax.tree.leaves(state.params)[0], metrics.loss


def diffusion():
    graphs, *leaves = split(unet=UNet())
    return diffusion_loss(graphs, SCHEDULE, scaling_factor=0.3), leaves, encoded(6)


def autoencoder():
    graphs, *leaves = split(vae=VAE())
    loss = vae_loss(graphs, stride=2, latent_channels=2, kl_weight=0.1, l1_weight=0.5)
    return loss, leaves, PixelBatch(numbers(6, 4, 6, 3))


@pytest.mark.parametrize("make", [diffusion, autoencoder])
@pytest.mark.parametrize("parts", [1, 3])
def test_rows_that_fill_a_batch_up_train_nothing(make, parts):
    loss, leaves, batch = make()
    draws = loss.draw(jax.random.key(1), batch)
    filled = batch._replace(weight=WEIGHT)
    ours = trained(loss, leaves, filled, draws, parts)
    few, few_draws = jax.tree.map(lambda x: x[np.array(REAL)], (batch, draws))
    theirs = trained(loss, leaves, few, few_draws)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, LAYER)


def test_draws_do_not_depend_on_weights():
    loss, _, batch = diffusion()
    draws = [loss.draw(jax.random.key(1), b) for b in (batch, batch._replace(weight=WEIGHT))]
    jax.tree.map(np.testing.assert_array_equal, *draws)
