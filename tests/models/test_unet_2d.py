import functools
import inspect

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.layers import dropout
from flax_sd.models.unet_2d import UNet2DModel
from flax_sd.models.unet_2d_config import UNSUPPORTED, UNet2DConfig
from flax_sd.weights.fill import checkpoint_key, fill, state_tensors, to_torch_layout
from flax_sd.weights.networks import OneKey
from tests import parity

CIFAR = {  # google/ddpm-cifar10-32
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
SMALL = {
    **CIFAR,
    "block_out_channels": [8, 12, 16],
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
HEADS = {  # what CIFAR's has not: heads, padding all round, cosines first, a scaled middle
    **SMALL,
    "block_out_channels": [12, 18],
    "norm_num_groups": 6,
    "attention_head_dim": 3,
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1.5,
    "out_channels": 6,
}
T = jnp.array([0, 381, 999])


def abstract(raw):
    config = UNet2DConfig.from_json(raw)
    return nnx.eval_shape(lambda: UNet2DModel(config, rngs=OneKey()))


def pair(raw):
    """diffusers' network with random weights, and ours with the same."""
    theirs = parity.randomise(diffusers.UNet2DModel(**raw))
    return theirs, fill(abstract(raw), parity.numpy_state(theirs), "float32", "test")


def images(h, w):
    return jnp.array(0.4 + np.random.default_rng(1).normal(size=(3, h, w, 3)), jnp.float32)


def test_output_equals_diffusers():
    theirs, ours = pair(SMALL)
    x = images(12, 8)
    out = jax.jit(lambda x: ours(x, T))(x)
    with torch.no_grad():
        expected = theirs(parity.to_torch(x), torch.from_numpy(np.array(T))).sample
    parity.assert_close(out, expected, parity.NETWORK)


def weighed(out):
    """A loss whose gradient differs at every value."""
    return (out * out * (1 + out)).mean()


def test_output_and_gradients_equal_diffusers():
    theirs, ours = pair(HEADS)
    x = images(6, 10)
    expected = theirs(parity.to_torch(x), torch.from_numpy(np.array(T))).sample
    weighed(expected).backward()
    graph, state = nnx.split(ours)

    def loss(state):
        out = nnx.merge(graph, state)(x, T)
        return weighed(out), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(state)
    parity.assert_close(out, expected, parity.NETWORK)
    wanted = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    largest = max(np.abs(g).max() for g in wanted.values())
    for name, grad in state_tensors(grads).items():
        if name.endswith("to_k.bias"):  # moves no softmax: its gradient is nothing but rounding
            assert max(np.abs(g).max() for g in (grad, wanted[name])) < 1e-5 * largest, name
        else:
            parity.assert_close(grad, wanted[name], parity.NETWORK)


def test_tensor_names_and_shapes_equal_diffusers():
    with torch.device("meta"):
        theirs = diffusers.UNet2DModel(**CIFAR).state_dict()
    ours = {
        checkpoint_key(path): to_torch_layout(path, np.broadcast_to(np.float32(0), var.shape)).shape
        for path, var in nnx.to_flat_state(nnx.state(abstract(CIFAR)))
    }
    assert ours == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


def test_fields_and_refused_fields_are_diffusers_signature():
    parameters = inspect.signature(diffusers.UNet2DModel).parameters
    signature = {name: parameter.default for name, parameter in parameters.items()}
    del signature["num_train_timesteps"]  # read for a learned embedding alone, which is refused
    fields = UNet2DConfig.__dataclass_fields__
    assert not fields.keys() & UNSUPPORTED.keys()
    assert {name: getattr(UNet2DConfig(), name) for name in fields} | UNSUPPORTED == signature


def test_what_is_not_supported_is_refused_by_name():
    raw = {**SMALL, "num_class_embeds": 10, "time_embedding_type": "fourier"}
    raw |= {"down_block_types": ["SkipDownBlock2D"] * 3}
    with pytest.raises(UserError) as caught:
        UNet2DConfig.from_json(raw)
    assert sorted(line.strip() for line in str(caught.value).splitlines()[1:]) == [
        'down_block_types has "SkipDownBlock2D": supported is AttnDownBlock2D or DownBlock2D',
        "num_class_embeds is 10: only null is supported",
        'time_embedding_type is "fourier": only "positional" is supported',
    ]
    with pytest.raises(UserError) as caught:
        UNet2DConfig.from_json({**SMALL, "attention_head_dim": 5, "up_block_types": ["UpBlock2D"]})
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "up_block_types has 1 entries: block_out_channels has 3, one a block",
        "attention_head_dim 5 does not divide a block's 16 channels",
        "attention_head_dim 5 does not divide a block's 12 channels",
    ]


def test_a_new_network_outputs_zero():
    unet = UNet2DModel(UNet2DConfig.from_json(HEADS), rngs=nnx.Rngs(0))
    x = images(4, 6)
    assert not np.any(jax.jit(lambda x: unet(x, T))(x))
    inner = state_tensors(unet)
    zero = ["mid_block.attentions.0.to_out.0.weight", "mid_block.resnets.1.conv2.weight"]
    assert not any(np.any(inner[name]) for name in zero)


def test_dropout_is_each_images_own_and_the_same_recomputed():
    theirs, ours = pair({**HEADS, "dropout": 0.25})
    graph, state = nnx.split(ours)
    x, keys = images(4, 6), jax.random.key_data(jax.random.split(jax.random.key(3), 3))

    def run(remat, state, x, keys):
        ours = nnx.merge(graph, state)
        ours.remat = remat
        return ours(x, T, keys)

    dropped = jax.jit(functools.partial(run, "none"))(state, x, keys)
    again = jax.jit(functools.partial(run, "full"))(state, x, keys)
    other = jax.jit(functools.partial(run, "none"))(state, x, keys.at[0].add(1))
    parity.assert_close(again, dropped, parity.LAYER)
    np.testing.assert_array_equal(other[1:], dropped[1:])
    assert np.abs(other[0] - dropped[0]).max() > 0.01
    with torch.no_grad():
        plain = theirs(parity.to_torch(x), torch.from_numpy(np.array(T))).sample
    parity.assert_close(jax.jit(lambda x: ours(x, T))(x), plain, parity.NETWORK)


def test_dropout_keeps_the_mean_and_differs_by_layer():
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 3))
    x = jnp.full((3, 40, 41, 8), 2.0)
    first, second = (np.asarray(dropout(x, 0.1, keys, layer)) for layer in (0, 1))
    assert set(np.unique(first)) == {0.0, np.float32(2 / 0.9)}
    np.testing.assert_allclose(first.mean((1, 2, 3)), 2.0, rtol=0.02)
    assert 0.15 < np.mean((first == 0) != (second == 0)) < 0.21  # 2 · 0.1 · 0.9
