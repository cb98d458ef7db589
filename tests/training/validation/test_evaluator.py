"""The fixed draws at which images are measured, on a loss of one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd.system import sharding
from flax_sd.training.losses import DiffusionDraws, PlainLoss
from flax_sd.training.validation import evaluator
from flax_sd.training.validation.evaluator import Evaluator, band_edges, fixed_timesteps
from tests import processes

MESH = sharding.make_mesh(1, 1, jax.devices()[:1])


class Numbers:
    """Images that are numbers, 1 for the first."""

    def __init__(self, count):
        self.source, self.count, self.shapes = self, count, ((1, 1),) * count

    def __len__(self):
        return self.count

    def captions(self, i):
        return (f"{i}", "another")

    def time_ids(self, i, *, seed, sample):
        return np.zeros(6, np.int32)

    def load(self, i, *, seed, sample):
        return np.float32([i + 1, 0])

    def batch(self, rows):
        assert "another" not in rows.captions
        return jnp.asarray(rows.images)


def draw(key, batch):
    noise = jax.random.normal(key, batch.shape)
    return DiffusionDraws(noise, jnp.full(len(batch), 99_999), noise)


def value(params, frozen, batch, draws):
    return batch[:, 0] * 1000 + draws.timesteps * params["t"] + draws.noise[:, 0] * frozen["noise"]


LOSS = PlainLoss(draw, value, 1000)


def losses(count, t=0.0, noise=0.0):
    params, frozen = {"t": jnp.float32(t)}, {"noise": jnp.float32(noise)}
    return Evaluator(Numbers(count), LOSS, MESH).losses(params, frozen)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_each_image_has_a_timestep_in_each_band_and_each_band_is_covered_evenly(count):
    t = fixed_timesteps(count, 1000)
    for band, (first, last) in enumerate(band_edges(1000)):
        assert last - first == 99
        parts = (np.sort(t[:, band]) - first) / 100 * count
        assert np.all((np.arange(count) <= parts + 0.15) & (parts < np.arange(1, count + 1)))
    ranks = np.argsort(t, axis=0)
    assert count == 1 or len({tuple(column) for column in ranks.T}) > 1  # not always the same order
    np.testing.assert_array_equal(t, fixed_timesteps(count, 1000))


def test_schedules_that_ten_does_not_divide():
    edges, t = band_edges(25), fixed_timesteps(4, 25)
    assert edges[0][0] == 0 and edges[-1][1] == 24
    assert all(after[0] == before[1] + 1 for before, after in zip(edges, edges[1:], strict=False))
    assert t.min() >= 0 and t.max() <= 24


def test_values_are_those_of_the_fixed_timesteps():
    expected = 1000 * np.arange(1, 6)[:, None] + fixed_timesteps(5, 1000)
    np.testing.assert_array_equal(losses(5, t=1.0), expected)


def test_batches_and_padding_change_nothing(monkeypatch):
    whole = losses(5, noise=1.0)
    noise = whole - 1000 * np.arange(1, 6)[:, None]
    assert len(np.unique(noise)) == 50 and abs(noise.mean()) < 0.5  # each draws its own
    for rows in (1, 2, 3):
        monkeypatch.setattr(evaluator, "ROWS", rows)
        np.testing.assert_array_equal(losses(5, noise=1.0), whole)


def test_images_of_several_shapes_are_measured_in_batches_of_their_own():
    class Shapes(Numbers):
        def load(self, i, *, seed, sample):
            return np.float32([i + 1, *[0] * (1 + i % 2)])

    numbers = Shapes(5)
    numbers.shapes = tuple((1, 1 + i % 2) for i in range(5))
    made = Evaluator(numbers, LOSS, MESH)
    values = made.losses({"t": jnp.float32(1)}, {"noise": jnp.float32(0)})
    np.testing.assert_array_equal(values, losses(5, t=1.0))


def test_a_loss_without_timesteps_is_measured_once_a_image():
    plain = PlainLoss(
        lambda key, batch: jax.random.normal(key, batch.shape), lambda p, f, b, d: b[:, 0]
    )
    made = Evaluator(Numbers(3), plain, MESH)
    assert made.bands == []
    np.testing.assert_array_equal(made.losses({}, {}), [[1], [2], [3]])


DEVICES = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 3)
import jax.numpy as jnp
import numpy as np
from flax_sd.system import sharding
from flax_sd.training.validation.evaluator import Evaluator
from tests.training.validation.test_evaluator import LOSS, Numbers

class Sharded(Numbers):
    def batch(self, rows):
        return sharding.shard_batch(rows.images, self.mesh)

values = []
for devices in (1, 3):
    numbers = Sharded(7)
    numbers.mesh = sharding.make_mesh(devices, 1, jax.devices()[:devices])
    one = sharding.replicate(jnp.float32(1), numbers.mesh)
    values.append(Evaluator(numbers, LOSS, numbers.mesh).losses({"t": one}, {"noise": one}))
np.testing.assert_array_equal(*values)
print("alike", len(numbers.mesh.devices))
"""


@pytest.mark.slow
def test_devices_change_nothing():
    assert "alike 3" in processes.run(DEVICES)
