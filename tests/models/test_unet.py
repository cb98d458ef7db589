import warnings

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.unet_config import UNetConfig
from flax_sd.weights.fill import fill, state_tensors
from flax_sd.weights.names import checkpoint_key, to_torch_layout
from tests import parity

DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
SD1_LIKE = {
    "block_out_channels": [16, 40],
    "down_block_types": list(DOWN),
    "up_block_types": list(UP),
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "layers_per_block": 2,
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 8,
}
SD2_LIKE = {
    **SD1_LIKE,
    "block_out_channels": [16, 32, 48],
    "down_block_types": [DOWN[0], DOWN[0], DOWN[1]],
    "up_block_types": [UP[0], UP[1], UP[1]],
    "attention_head_dim": [2, 4, 6],
    "layers_per_block": [1, 2, 1],
    "use_linear_projection": True,
    "upcast_attention": True,
    "mid_block_scale_factor": 1.5,
    "out_channels": 8,
}
SD1_FULL = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "sample_size": 64,
}
SD2_FULL = {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
    "use_linear_projection": True,
    "upcast_attention": True,
    "sample_size": 96,
}


def abstract(raw):
    config = UNetConfig.from_json(raw)
    return nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=nnx.Rngs(0)))


def pair(raw, seed=0):
    """diffusers' network with random weights, and ours with the same."""
    theirs = parity.randomise(diffusers.UNet2DConditionModel(**raw), seed)
    return theirs, fill(abstract(raw), parity.numpy_state(theirs), "float32", "test")


def inputs(raw, h, w, batch=3):
    rng = np.random.default_rng(1)
    latents = 0.7 + rng.normal(size=(batch, h, w, raw["in_channels"])).astype(np.float32)
    text = -0.3 + rng.normal(size=(batch, 7, raw["cross_attention_dim"])).astype(np.float32)
    return latents, text


def run(theirs, latents, t, text):
    with torch.no_grad():
        out = theirs(parity.to_torch(latents), torch.from_numpy(np.array(t)), torch.tensor(text))
    return out.sample


@pytest.mark.parametrize("size", [(12, 8), (7, 5), (9, 14)], ids=str)
@pytest.mark.parametrize("raw", [SD1_LIKE, SD2_LIKE], ids=["sd1", "sd2"])
def test_output_equals_diffusers(raw, size):
    theirs, ours = pair(raw)
    latents, text = inputs(raw, *size)
    t = np.array([0, 381, 999])
    out = jax.jit(lambda *args: ours(*args))(latents, t, text)
    parity.assert_close(out, run(theirs, latents, t, text), parity.NETWORK)
