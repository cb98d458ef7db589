import numpy as np
import pytest
import torch

from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.samplers.torch_noise import TorchGenerator, initial_noise, step_noise

SEEDS = (0, 1, 123456789, 2**32 - 1, 2**32 + 5, 2**63 - 1, 2**63, -1)
TOLERANCE = 1e-6  # of values up to 5: torch's vector logarithm and cosine have their own last bits


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 7, 15, 16, 17, 31, 32, 100, 16384])
def test_draw_matches_torch(seed, size):
    theirs = torch.randn(size, generator=torch.Generator().manual_seed(seed)).numpy()
    ours = TorchGenerator(seed).randn((size,))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_stream_continues_like_torch():
    """Odd small draws keep half a pair, which survives larger draws in between."""
    generator, ours = torch.Generator().manual_seed(5), TorchGenerator(5)
    for shape in [(3,), (2, 20), (1,), (5,), (16,), (1, 4, 3, 2), (0,), (15,), (2,)]:
        theirs = torch.randn(shape, generator=generator).numpy()
        np.testing.assert_allclose(ours.randn(shape), theirs, rtol=0, atol=TOLERANCE)


def test_large_draw_has_no_outlier():
    """Every 24-bit uniform is as likely: the smallest gives the largest value, not infinity."""
    theirs = torch.randn(2**20, generator=torch.Generator().manual_seed(2)).numpy()
    ours = TorchGenerator(2).randn((2**20,))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2 * TOLERANCE)


def test_initial_noise_is_that_of_a_list_of_generators():
    ours = initial_noise([3, 4], 6, 5, 4)
    assert ours.shape == (2, 6, 5, 4)
    for image, seed in zip(ours, (3, 4), strict=True):
        theirs = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(seed))[0]
        np.testing.assert_allclose(image, theirs.permute(1, 2, 0), rtol=0, atol=TOLERANCE)


def test_row_does_not_depend_on_its_batch():
    np.testing.assert_array_equal(initial_noise([3, 4], 6, 5, 4)[1:], initial_noise([4], 6, 5, 4))


@pytest.mark.parametrize("after_initial", [True, False])
def test_step_noise_follows_the_stream_where_it_is_drawn(after_initial):
    draws = np.array([True, False, True, True])
    ours = step_noise([8, 9], draws, 3, 2, 4, after_initial=after_initial)
    assert ours is not None and ours.shape == (4, 2, 3, 2, 4)
    for k, seed in enumerate((8, 9)):
        generator = torch.Generator().manual_seed(seed)
        if after_initial:
            torch.randn(1, 4, 3, 2, generator=generator)
        for i in (0, 2, 3):
            theirs = torch.randn(1, 4, 3, 2, generator=generator)[0].permute(1, 2, 0)
            np.testing.assert_allclose(ours[i, k], theirs, rtol=0, atol=TOLERANCE)
    assert not ours[1].any()


def test_no_noise_for_a_deterministic_sampler():
    sampler = samplers.from_config({"_class_name": "DDIMScheduler"}, 5)
    assert step_noise([1], np.asarray(sampler.draws), 3, 2, 4) is None


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_refuses_seeds_that_torch_refuses(seed):
    with pytest.raises(UserError, match="at most 64 bits"):
        TorchGenerator(seed)
