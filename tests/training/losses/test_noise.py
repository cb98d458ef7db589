"""Noise with offsets, coarse layers and perturbed inputs, against the published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_sd.config import NoiseConfig
from flax_sd.training.losses import noise
from tests.parity import LAYER, assert_close, to_torch

SHAPE = (3, 12, 20, 4)
KEY = jax.random.key(3)


def options(**given):
    """The options as the step takes them."""
    return noise.Noise.of(NoiseConfig(**given))


PLAIN = options()
WHITE = jax.random.normal(KEY, SHAPE)


def test_without_options_it_is_white():
    np.testing.assert_array_equal(noise.draw(KEY, SHAPE, options()), WHITE)
    assert noise.perturb(KEY, WHITE, options()) is None


def test_an_offset_is_one_number_an_image_and_channel():
    added = np.asarray(noise.draw(KEY, SHAPE, options(offset=0.5)) - WHITE)
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], SHAPE), atol=1e-6)
    many = noise.draw(KEY, (500, 1, 1, 4), options(offset=3.0))
    assert float(many.std()) == pytest.approx(np.sqrt(1 + 3.0**2), rel=0.05)


def test_a_perturbed_input_differs_by_so_much_noise():
    added = np.asarray(noise.perturb(KEY, WHITE, options(input_perturbation=0.1)) - WHITE)
    assert added.std() == pytest.approx(0.1, rel=0.1)
    assert abs(np.corrcoef(added.ravel(), np.ravel(WHITE))[0, 1]) < 0.1


def test_random_strengths_are_each_images_own_and_uniform():
    """D: as `--noise_offset_random_strength` and `--ip_noise_gamma_random_strength`."""
    shape, white = (900, 2, 3, 4), jnp.zeros((900, 2, 3, 4))
    for name, make, of_one in [
        ("offset", lambda cfg: noise.draw(KEY, shape, cfg) - noise.draw(KEY, shape, PLAIN), 1e-5),
        ("input_perturbation", lambda cfg: noise.perturb(KEY, white, cfg), 1e-6),
    ]:
        fixed = np.asarray(make(options(**{name: 0.5})))
        varied = np.asarray(make(options(**{name: 0.5, f"{name}_random": True})))
        strength = np.sum(fixed * varied, axis=(1, 2, 3)) / np.sum(fixed**2, axis=(1, 2, 3))
        # The same direction as without, of a strength of its own between none and all of it.
        np.testing.assert_allclose(varied, strength[:, None, None, None] * fixed, atol=of_one)
        shares, _ = np.histogram(strength, bins=3, range=(0, 1))
        assert shares.sum() == 900 and shares.min() > 250
        with pytest.raises(ValueError, match=f"{name}_random without effect"):
            options(**{f"{name}_random": True})


@pytest.mark.parametrize(("n", "length"), [(1, 7), (3, 8), (5, 5), (4, 13)])
def test_layers_are_enlarged_as_torch_does(n, length):
    x = np.random.default_rng(0).normal(size=(2, length, 3, 2)).astype(np.float32)
    ours = noise._enlarge(jnp.asarray(x), jnp.int32(n), axis=1)
    few = torch.from_numpy(x[:, :n].transpose(0, 3, 1, 2))
    theirs = torch.nn.functional.interpolate(few, size=(length, 3), mode="bilinear")
    assert_close(ours, theirs.numpy().transpose(0, 2, 3, 1), LAYER)


def test_multires_noise_is_coarser_and_of_unit_spread():
    def neighbours(x):
        x = np.asarray(x)
        return np.corrcoef(x[:, :, 1:].ravel(), x[:, :, :-1].ravel())[0, 1]

    shape = (8, 32, 32, 4)
    drawn = [noise.draw(KEY, shape, options(multires_steps=n)) for n in (0, 2, 6)]
    assert all(float(x.std()) == pytest.approx(1, abs=0.02) for x in drawn)
    assert neighbours(drawn[0]) < 0.02 < neighbours(drawn[1])
    strong = noise.draw(KEY, shape, options(multires_steps=6, multires_discount=0.8))
    assert neighbours(strong) > neighbours(drawn[2]) + 0.1


def sd_scripts(noise, offset, ratios, layers, discount):
    """sd-scripts' `get_noise_noisy_latents_and_timesteps` up to the noise, with draws given.

    First `apply_noise_offset`, then `pyramid_noise_like` (library/custom_train_functions.py).
    """
    noise = noise + offset
    height, width = noise.shape[2:]
    for i, (ratio, layer) in enumerate(zip(ratios, layers, strict=True)):
        h, w = (max(1, int(side / ratio**i)) for side in (height, width))
        small = torch.nn.functional.interpolate(
            layer[:, :, :h, :w], (height, width), mode="bilinear"
        )
        noise = noise + small * discount**i
        if h == 1 or w == 1:
            break
    return noise / noise.std()


def test_the_offset_comes_before_the_layers_as_in_sd_scripts():
    """B4."""
    key, ratios, layers = jax.random.fold_in(KEY, 1), [], []
    for _ in range(4):
        key, of_ratio, of_layer = jax.random.split(key, 3)
        ratios.append(float(2 + 2 * jax.random.uniform(of_ratio)))
        layers.append(to_torch(jax.random.normal(of_layer, SHAPE)))
    offset = 0.7 * to_torch(jax.random.normal(jax.random.fold_in(KEY, 2), (3, 1, 1, 4)))
    theirs = sd_scripts(to_torch(WHITE), offset, ratios, layers, 0.6)
    cfg = options(offset=0.7, multires_steps=4, multires_discount=0.6)
    assert_close(noise.draw(KEY, SHAPE, cfg), theirs, LAYER)


def test_layers_end_with_the_first_of_one_pixel():
    few, many = (noise.draw(KEY, (2, 2, 9, 4), options(multires_steps=n)) for n in (2, 9))
    assert_close(many, few, LAYER)  # 2 pixels high: the second layer is one
