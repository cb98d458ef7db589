import inspect

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.tiny_vae import UNSUPPORTED, AutoencoderTiny, AutoencoderTinyConfig
from flax_sd.weights.fill import fill, state_tensors
from flax_sd.weights.networks import OneKey
from tests import parity

SMALL = {
    "encoder_block_out_channels": [8, 8, 8],
    "decoder_block_out_channels": [12, 12],
    "num_encoder_blocks": [1, 2, 1],
    "num_decoder_blocks": [2, 1],
    "latent_channels": 5,
}


def pair(raw):
    """diffusers' network with random weights, and ours with the same."""
    theirs = parity.randomise(diffusers.AutoencoderTiny(**raw))
    config = AutoencoderTinyConfig.from_json(raw)
    abstract = nnx.eval_shape(lambda: AutoencoderTiny(config, rngs=OneKey()))
    return theirs, fill(abstract, parity.numpy_state(theirs), "float32", "test")


@pytest.mark.parametrize("size", [(8, 12), (7, 10)], ids=str)
def test_encode_equals_diffusers(size):
    theirs, ours = pair(SMALL)
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, *size, 3)).astype(np.float32)
    moments = ours.encode(jnp.asarray(pixels))
    with torch.no_grad():
        expected = theirs.encode(parity.to_torch(pixels)).latents
    parity.assert_close(moments.mean, expected, parity.NETWORK)
    noise = jnp.ones_like(moments.mean)
    np.testing.assert_array_equal(moments.sample(noise), moments.mean)


def test_image_file_equals_diffusers():
    theirs, ours = pair(SMALL)
    latents = 2 + 3 * np.random.default_rng(0).normal(size=(3, 4, 7, 5)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.decode(parity.to_torch(latents)).sample
    parity.assert_close(ours.decode(jnp.asarray(latents)), expected, parity.NETWORK)


def test_save_gives_back_the_tensors_loaded():
    theirs, ours = pair({})
    expected, actual = parity.numpy_state(theirs), state_tensors(ours)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)


def test_computes_in_the_dtype_of_the_parameters():
    _, ours = pair(SMALL)
    latents = jnp.ones((1, 4, 6, 5))
    exact = ours.decode(latents)
    graphdef, state = nnx.split(ours)
    half = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    assert half.decode(latents).dtype == half.encode(exact).mean.dtype == jnp.bfloat16
    parity.assert_close(half.decode(latents), exact, 0.05)


def test_fields_are_diffusers_signature():
    parameters = inspect.signature(diffusers.AutoencoderTiny).parameters.items()
    config = AutoencoderTinyConfig()
    ours = {name: getattr(config, name) for name in AutoencoderTinyConfig.__dataclass_fields__}
    idle = {"latent_magnitude", "latent_shift", "force_upcast"}  # of its 8-bit latents; unread
    theirs = {name: p.default for name, p in parameters if name not in idle}
    assert ours | UNSUPPORTED == theirs


def test_misfits_are_named_at_once():
    raw = {"encoder_block_out_channels": [8, 16], "decoder_block_out_channels": [64] * 3}
    with pytest.raises(UserError) as caught:
        AutoencoderTinyConfig.from_json(raw)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "encoder_block_out_channels and num_encoder_blocks are not equally long",
        "encoder_block_out_channels [8, 16] are not all the same",
        "decoder_block_out_channels and num_decoder_blocks are not equally long",
    ]
    with pytest.raises(UserError, match=r"(?s)shift_factor is 0\.1.*upsample_fn has \"bicubic\""):
        AutoencoderTinyConfig.from_json({"shift_factor": 0.1, "upsample_fn": "bicubic"})
