import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models import attention, downsampling, resnet, upsampling
from diffusers.models.transformers import transformer_2d
from flax import nnx

from flax_sd.models.unet_blocks import Downsample2D, ResnetBlock2D, Upsample2D
from flax_sd.models.unet_config import UNetConfig
from flax_sd.models.unet_transformer import (
    Attention,
    BasicTransformerBlock,
    FeedForward,
    Transformer2DModel,
)
from flax_sd.weights.fill import fill
from tests import parity

CONFIG = UNetConfig(norm_num_groups=4, block_out_channels=(12, 12, 12, 12), attention_head_dim=3)


def filled(make, theirs):
    """Our module with the random weights that diffusers' is given."""
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    return fill(abstract, parity.numpy_state(parity.randomise(theirs)), "float32", "test")


def draw(*shape, mean=5.0):
    """A mean far from zero shows a variance in one pass, height ≠ width a swap of them."""
    return mean + np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("c_out, scale", [(12, 1.0), (20, 1.7)], ids=["identity", "1x1, scaled"])
def test_resblock(c_out, scale):
    theirs = resnet.ResnetBlock2D(
        in_channels=12,
        out_channels=c_out,
        temb_channels=CONFIG.time_width,
        groups=4,
        eps=1e-5,
        output_scale_factor=scale,
    )
    ours = filled(lambda rngs: ResnetBlock2D(12, c_out, CONFIG, scale=scale, rngs=rngs), theirs)
    x, temb = draw(3, 7, 5, 12), draw(3, CONFIG.time_width, mean=0.3)
    with torch.no_grad():
        expected = theirs(parity.to_torch(x), torch.from_numpy(temb))
    parity.assert_close(ours(jnp.asarray(x), jnp.asarray(temb)), expected, parity.LAYER)


@pytest.mark.parametrize("linear", [False, True], ids=["convolutions", "linear"])
def test_transformer(linear):
    theirs = transformer_2d.Transformer2DModel(
        3,
        4,
        in_channels=12,
        num_layers=2,
        cross_attention_dim=10,
        norm_num_groups=4,
        use_linear_projection=linear,
        upcast_attention=linear,
    )
    ours = filled(
        lambda rngs: Transformer2DModel(12, 10, 3, depth=2, groups=4, linear=linear, rngs=rngs),
        theirs,
    )
    x, text = draw(3, 7, 5, 12), draw(3, 6, 10, mean=-1.0)
    with torch.no_grad():
        (expected,) = theirs(parity.to_torch(x), torch.from_numpy(text), return_dict=False)
    parity.assert_close(ours(jnp.asarray(x), jnp.asarray(text)), expected, parity.LAYER)


def test_basic_transformer_block():
    theirs = attention.BasicTransformerBlock(12, 3, 4, cross_attention_dim=10)
    ours = filled(lambda rngs: BasicTransformerBlock(12, 10, 3, rngs=rngs), theirs)
    x, text = draw(3, 9, 12), draw(3, 6, 10)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), encoder_hidden_states=torch.from_numpy(text))
    parity.assert_close(ours(jnp.asarray(x), jnp.asarray(text)), expected, parity.LAYER)


def test_feed_forward_gates_with_its_second_half():
    theirs = attention.FeedForward(12, activation_fn="geglu")
    ours = filled(lambda rngs: FeedForward(12, rngs=rngs), theirs)
    x = draw(3, 9, 12, mean=0.5)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x))
    parity.assert_close(ours(jnp.asarray(x)), expected, parity.LAYER)


@pytest.mark.parametrize("padding", [1, 0])
@pytest.mark.parametrize("size", [(8, 6), (7, 5)], ids=["even", "odd"])
def test_downsampling(size, padding):
    theirs = downsampling.Downsample2D(12, use_conv=True, padding=padding, name="op")
    ours = filled(lambda rngs: Downsample2D(12, padding, rngs=rngs), theirs)
    x = draw(3, *size, 12)
    with torch.no_grad():
        expected = theirs(parity.to_torch(x))
    parity.assert_close(ours(jnp.asarray(x)), expected, parity.LAYER)


@pytest.mark.parametrize("size", [(8, 6), (7, 5)], ids=["doubled", "to an odd size"])
def test_upsampling(size):
    theirs = upsampling.Upsample2D(12, use_conv=True)
    ours = filled(lambda rngs: Upsample2D(12, rngs=rngs), theirs)
    x = draw(3, 4, 3, 12)
    with torch.no_grad():
        expected = theirs(parity.to_torch(x), size)
    parity.assert_close(ours(jnp.asarray(x), size), expected, parity.LAYER)


def test_attention_in_float16_does_not_overflow():
    """SD 2.1's logits leave float16's range (`upcast_attention`); here they are float32."""
    graphdef, state = nnx.split(Attention(12, 12, 3, rngs=nnx.Rngs(0)))
    ours = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.float16), state))
    x = jnp.asarray(draw(1, 9, 12, mean=0.0), jnp.float16) * 300
    assert jnp.abs(ours.to_q(x)).max() ** 2 > 65504
    out = ours(x, x)
    assert out.dtype == jnp.float16 and bool(jnp.isfinite(out).all())
