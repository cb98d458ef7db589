from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.vae import AutoencoderKL, AutoencoderKLConfig, Moments
from flax_sd.weights.fill import fill, state_tensors
from flax_sd.weights.networks import OneKey
from tests.parity import NETWORK, assert_close, numpy_state, randomise, to_torch

CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [8, 12, 20],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 32,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}


def pair(**changes: Any) -> tuple[AutoencoderKL, Any]:
    """Our network and diffusers', with the same random weights."""
    raw = CONFIG | changes
    theirs = randomise(diffusers.AutoencoderKL.from_config(raw))
    config = AutoencoderKLConfig.from_json(raw)
    abstract = nnx.eval_shape(lambda: AutoencoderKL(config, rngs=OneKey()))
    return fill(abstract, numpy_state(theirs), "float32", "the test"), theirs


def pixels(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0.3, 0.6, size=(3, h, w, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers_per_block": 1},
        {"mid_block_add_attention": False},
        {"use_quant_conv": False, "use_post_quant_conv": False},
        {"block_out_channels": [4, 8, 16], "norm_num_groups": 2},
    ],
)
def test_encode_and_decode_are_diffusers(changes: dict[str, Any]) -> None:
    ours, theirs = pair(**changes)
    x = pixels(20, 28)
    posterior = theirs.encode(to_torch(x)).latent_dist
    moments = ours.encode(jnp.asarray(x))
    assert_close(moments.mean, posterior.mean, NETWORK)
    assert_close(moments.logvar, posterior.logvar, NETWORK)
    z = np.random.default_rng(2).normal(0.5, 2, size=(3, 5, 7, 4)).astype(np.float32)
    assert_close(ours.decode(jnp.asarray(z)), theirs.decode(to_torch(z)).sample, NETWORK)


@pytest.mark.parametrize("upcast", [True, False])
def test_float16_computes_in_float32_where_the_config_says_so(upcast: bool) -> None:
    """Trap 21: activations of SDXL's autoencoder are too large for float16, in both directions."""
    graph, state = nnx.split(pair(force_upcast=upcast)[0])
    half = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.float16), state))
    for conv in (half.encoder.conv_in, half.decoder.conv_in):
        conv.kernel[...] *= jnp.float16(3e4)  # 65504 is the largest number
    z = np.random.default_rng(2).normal(0.5, 2, size=(1, 5, 7, 4)).astype(np.float32)
    found = [half.encode(jnp.asarray(pixels(16, 24))).mean, half.decode(jnp.asarray(z))]
    assert [bool(jnp.isfinite(array).all()) for array in found] == [upcast] * 2
    assert {array.dtype for array in found} == {jnp.dtype("float32" if upcast else "float16")}


def test_odd_sizes_are_cut_as_diffusers_cuts_them() -> None:
    ours, theirs = pair()
    x = pixels(21, 27)
    assert_close(
        ours.encode(jnp.asarray(x)).mean, theirs.encode(to_torch(x)).latent_dist.mean, NETWORK
    )


def test_the_log_variance_is_clipped() -> None:
    ours, theirs = pair()
    x = 1e4 * pixels(16, 12)
    ours.quant_conv.kernel[...] *= 1000
    theirs.quant_conv.weight.data *= 1000
    logvar = ours.encode(jnp.asarray(x)).logvar
    assert logvar.min() == -30 and logvar.max() == 20
    assert_close(logvar, theirs.encode(to_torch(x)).latent_dist.logvar, NETWORK)


def test_kl_is_that_of_the_two_gaussians() -> None:
    mean, logvar = np.random.default_rng(0).normal(size=(2, 2, 3, 5, 4))
    ours = Moments(jnp.asarray(mean, jnp.float32), jnp.asarray(logvar, jnp.float32)).kl()
    var = np.exp(logvar)
    exact = 0.5 * (var + mean**2 - 1 - logvar).sum((1, 2, 3))
    np.testing.assert_allclose(ours, exact, rtol=1e-5)
    zero = Moments(jnp.zeros((2, 3, 5, 4)), jnp.zeros((2, 3, 5, 4)))
    np.testing.assert_array_equal(zero.kl(), [0, 0])


def test_weights_go_in_and_out_bit_for_bit() -> None:
    ours, theirs = pair()
    back = state_tensors(ours)
    wanted = numpy_state(theirs)
    assert back.keys() == wanted.keys()
    for key, tensor in wanted.items():
        np.testing.assert_array_equal(back[key], tensor)


def test_it_computes_in_the_dtype_of_its_weights() -> None:
    config = AutoencoderKLConfig.from_json(CONFIG)
    vae = AutoencoderKL(config, rngs=nnx.Rngs(0))
    graph, state = nnx.split(vae)
    half = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))
    moments = half.encode(jnp.asarray(pixels(16, 12)))
    assert moments.mean.dtype == jnp.bfloat16
    assert half.decode(moments.mean.astype(jnp.float32)).dtype == jnp.bfloat16


def test_what_is_not_supported_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="shift_factor"):
        AutoencoderKLConfig.from_json(CONFIG | {"shift_factor": 0.1})
    with pytest.raises(UserError, match="AttnDownEncoderBlock2D"):
        AutoencoderKLConfig.from_json(CONFIG | {"down_block_types": ["AttnDownEncoderBlock2D"] * 3})


@pytest.mark.parametrize(
    "field", [{"latents_mean": [0.1] * 4}, {"latents_std": [5.0] * 4}, {"shift_factor": 0.0609}]
)
def test_latents_of_another_mean_are_refused_by_name(field):
    """Trap 22: ignored, they would give wrong colours."""
    with pytest.raises(UserError, match=next(iter(field))):
        AutoencoderKLConfig.from_json({**CONFIG, **field})
