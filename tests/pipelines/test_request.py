"""What `generate` was asked for, spelled out and checked."""

import inspect

import diffusers
import numpy as np
import pytest

from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.pipelines.request import draw_noise, guided, read_request
from flax_sd.pipelines.span import Span
from tests.parity import LAYER, assert_close

WHOLE = Span(0, 1000)
MODEL = {"default_size": (6, 8), "channels": 4, "stride": 8}


def request(prompts="a", negatives="", seed=0, size=(None, None), latents=None):
    return read_request(prompts, negatives, seed, size, latents, **MODEL)


def test_one_prompt_or_several():
    assert request() == (["a"], [""], [0], 6, 8)
    assert request(["a", "b"], "x", 5).negatives == ["x", "x"]
    assert request(("a", "b"), ["x", "y"]).negatives == ["x", "y"]


def test_no_negative_prompt_is_an_empty_one():
    """A10: None is diffusers' default."""
    default = inspect.signature(diffusers.StableDiffusionPipeline.__call__).parameters
    assert default["negative_prompt"].default is None
    assert request(["a", "b"], None).negatives == ["", ""]


@pytest.mark.parametrize("seed", [[3, 9], (3, 9), np.array([3, 9]), [np.int64(3), 9]])
def test_a_seed_each(seed):
    assert request(["a", "b"], seed=seed).seeds == [3, 9]


def test_an_integer_seed_counts_up():
    assert request(["a", "b", "c"], seed=np.int32(7)).seeds == [7, 8, 9]


def test_sizes():
    """C7: one side alone counts, where diffusers takes both from the model."""
    assert request(size=(64, None))[3:] == (8, 8)
    assert request(size=(None, 40))[3:] == (6, 5)
    assert request(latents=np.zeros((1, 5, 3, 4)))[3:] == (5, 3)
    assert request(size=(40, 24), latents=np.zeros((1, 5, 3, 4)))[3:] == (5, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prompts": []}, "there is no prompt"),
        ({"prompts": None}, "prompt is None: should be text, or a list of texts"),
        ({"prompts": 3}, "prompt is 3: should be text"),
        ({"negatives": [None]}, "negative prompt is None: should be text"),
        ({"negatives": []}, "0 negative prompts for 1 prompts"),
        ({"seed": None}, "seed is None: should be an integer or a list of integers"),
        ({"negatives": ["x", "y"]}, "2 negative prompts for 1 prompts"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"seed": 1.5}, "seed is 1.5: should be an integer or a list of integers"),
        ({"seed": ["1"]}, "should be an integer or a list of integers"),
        ({"size": (20, None)}, "height is 20: should be a positive multiple of 8"),
        ({"size": (None, 0)}, "width is 0: should be a positive multiple of 8"),
        ({"size": (None, -8)}, "width is -8"),
        (
            {"latents": np.zeros((2, 6, 8, 4))},
            r"latents are \[2, 6, 8, 4\]: should be \[1, 6, 8, 4",
        ),
        ({"latents": np.zeros((1, 4, 6, 8))}, r"\[1, 4, 6, 8\]: should be \[1, 4, 6, 4\]"),
        ({"latents": np.zeros((6, 8, 4))}, r"\[6, 8, 4\]: should be \[1, 6, 8, 4\]"),
        ({"latents": np.zeros((1, 6, 8, 4)), "size": (64, None)}, r"should be \[1, 8, 8, 4\]"),
    ],
)
def test_what_cannot_be_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        request(**arguments)


def test_all_problems_are_named_at_once():
    with pytest.raises(UserError) as caught:
        request(["a", "b"], ["x"], [1], size=(20, 12))
    assert len(str(caught.value).split("; ")) == 6  # two of these sentences have a semicolon


def test_noise_is_that_of_the_seeds():
    asked = request(["a", "b"], seed=[3, 9], size=(40, 24))
    euler = {"_class_name": "EulerAncestralDiscreteScheduler", "beta_end": 0.012}
    sampler = samplers.from_config(euler, 3)
    x, noise = draw_noise(asked, sampler, 4, None, WHOLE)
    first = samplers.initial_noise([3, 9], 5, 3, 4)
    assert_close(x, first * float(sampler.init_noise_sigma), LAYER)
    stream = samplers.TorchGenerator(9)
    stream.randn((1, 4, 5, 3))
    assert np.array_equal(noise.take(0, 3)[0, 1], np.moveaxis(stream.randn((1, 4, 5, 3))[0], 0, -1))
    x, noise = draw_noise(asked, sampler, 4, np.ones((2, 5, 3, 4)), WHOLE)
    assert np.ptp(x) == 0 and np.array_equal(
        noise.take(0, 1)[0], first
    )  # the stream begins with the steps'


def test_guidance_needs_more_than_one():
    assert guided(1.01) and not guided(1.0) and not guided(0) and not guided(-3)
    for scale in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="should be a number; 1 turns it off"):
            guided(scale)
