"""A masked loss learns nothing from what the mask hides, in one part or in several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_sd.training.losses import diffusion_loss
from tests.parity import LAYER, assert_close
from tests.training.losses.test_losses import SCHEDULE, encoded, numbers, split
from tests.training.losses.test_weights_of_rows import diffusion, trained


class PlannedImage(nnx.Module):
    """A network whose output is its weights, each at its place."""

    def __init__(self):
        self.out = nnx.Param(jnp.asarray(numbers(4, 6, 2, seed=5)))

    def __call__(self, x, t, text):
        return jnp.broadcast_to(self.out[...], x.shape)


def test_the_loss_is_the_weighted_mean_of_the_places_and_their_gradient_is_theirs_alone():
    graphs, params, none = split(unet=PlannedImage())
    loss, batch = diffusion_loss(graphs, SCHEDULE, scaling_factor=0.3), encoded()
    draws = loss.draw(jax.random.key(1), batch)
    mask = np.zeros((3, 4, 6), np.float32)
    mask[:, 1, 2:4] = [1, 0.5]
    masked = batch._replace(mask=jnp.asarray(mask))
    error = np.square(np.asarray(params["unet"]["out"][...]) - draws.noise)
    hand = (error[:, 1, 2] + 0.5 * error[:, 1, 3]).sum(-1) / (4 * 6 * 2)
    assert_close(loss.loss(params, none, masked, draws), hand, LAYER)
    gradient = jax.grad(lambda p: loss.loss(p, none, masked, draws).sum())(params)
    learned = np.asarray(gradient["unet"]["out"][...]).any(-1)
    assert np.array_equal(learned, mask[0] > 0)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_white_mask_changes_nothing_and_a_black_one_leaves_its_image_out(parts):
    loss, leaves, batch = diffusion()
    draws = loss.draw(jax.random.key(1), batch)
    rows = np.array([0, 2, 2, 0, 0, 2], np.float32)
    masks = jnp.asarray(rows[:, None, None] * np.ones((4, 6), np.float32))
    pairs = [
        (batch._replace(mask=jnp.ones((6, 4, 6))), batch),
        (batch._replace(mask=masks), batch._replace(weight=rows)),
    ]
    for ours, theirs in pairs:
        ours, theirs = (trained(loss, leaves, b, draws, parts) for b in (ours, theirs))
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b, LAYER)
