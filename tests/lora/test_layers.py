import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from peft.tuners.lora import Conv2d, Linear, LoraConfig

from flax_sd.lora.adapter import Adapter
from flax_sd.lora.inject import attach, inject
from flax_sd.lora.layers import LoRA, down_shape
from flax_sd.models import layers
from tests.lora.networks import small
from tests.parity import LAYER, assert_close, to_torch

RANK, ALPHA = 4, 6.0


class Holder(nnx.Module):
    def __init__(self, layer):
        self.layer = layer


def peft_layer(base, cls):
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, init_lora_weights="gaussian")
    theirs = cls(base, "default", config, r=RANK, lora_alpha=ALPHA)
    torch.nn.init.normal_(theirs.lora_B["default"].weight)
    return theirs


def ours_from(theirs, base):
    """Our layer with the weights of peft's."""
    kernel = theirs.base_layer.weight.detach().numpy()
    base.kernel[...] = jnp.asarray(kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T)
    base.bias[...] = jnp.asarray(theirs.base_layer.bias.detach().numpy())
    down, up = (m["default"].weight.detach().numpy() for m in (theirs.lora_A, theirs.lora_B))
    holder = Holder(base)
    attach(holder, {"layer": Adapter(down, up, ALPHA)}, 1.0)
    return holder.layer


def test_linear_matches_peft():
    torch.manual_seed(0)
    theirs = peft_layer(torch.nn.Linear(10, 7), Linear)
    ours = ours_from(theirs, layers.linear(10, 7, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(2, 5, 10)).astype(np.float32)
    assert_close(ours(jnp.asarray(x)), theirs(torch.from_numpy(x)), LAYER)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_convolution_matches_peft(size, stride):
    torch.manual_seed(0)
    pad = (size - 1) // 2
    theirs = peft_layer(torch.nn.Conv2d(6, 9, size, stride, padding=pad), Conv2d)
    ours = ours_from(theirs, layers.conv(6, 9, size, stride, rngs=nnx.Rngs(0)))
    x = 3 + np.random.default_rng(0).normal(size=(2, 11, 8, 6)).astype(np.float32)
    assert_close(ours(jnp.asarray(x)), theirs(to_torch(x)), LAYER)


def test_fresh_lora_changes_no_bit():
    model, x, context = small(), jnp.ones((2, 8, 6, 3)), jnp.ones((2, 4, 5))
    before = model(x, context)
    inject(model, "conv", RANK, ALPHA, "gaussian", jax.random.key(1))
    np.testing.assert_array_equal(model(x, context), before)


def test_leaves_are_float32_beside_a_bfloat16_base():
    model = small()
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    inject(model, "conv", RANK, ALPHA, "kaiming", jax.random.key(1))
    _, trained, rest = nnx.split(model, nnx.LoRAParam, ...)
    assert {str(x.dtype) for x in jax.tree.leaves(trained)} == {"float32"}
    x, context = jnp.ones((2, 8, 6, 3), jnp.bfloat16), jnp.ones((2, 4, 5), jnp.bfloat16)
    assert model(x, context).dtype == jnp.bfloat16
    scales = [leaf for leaf in jax.tree.leaves(rest) if leaf.ndim == 0]
    assert [float(s) for s in scales] == [1.5] * 5


def test_strength_is_an_argument_of_the_compiled_function():
    model, traces = small(), []
    adapter = Adapter(np.ones((2, 8), np.float32), np.ones((8, 2), np.float32), 2.0)
    graphs = []
    for strength in (0.5, 0.8):
        attached = small()
        attach(attached, {"attn2.to_q": adapter}, strength)
        graphs.append(nnx.split(attached))

    @jax.jit
    def run(state, x, context):
        traces.append(1)
        return nnx.merge(graphs[0][0], state)(x, context)

    x, context = jnp.ones((2, 8, 6, 3)), jnp.ones((2, 4, 5))
    base = model(x, context)
    half, more = (run(state, x, context) - base for _, state in graphs)
    assert len(traces) == 1 and graphs[0][0] == graphs[1][0]
    np.testing.assert_allclose(half * 1.6, more, rtol=1e-4, atol=1e-5)


def test_wrapper_answers_for_its_layer():
    model = small()
    kernel, bias = model.conv_down.kernel, model.conv_down.bias
    inject(model, "conv_down", RANK, ALPHA, "gaussian", jax.random.key(0))
    assert isinstance(model.conv_down, LoRA)
    assert model.conv_down.kernel is kernel and model.conv_down.bias is bias
    assert (model.conv_down.in_features, model.conv_down.out_features) == (6, 8)


def test_convolution_that_lora_cannot_follow_is_refused():
    same = nnx.Conv(4, 4, (3, 3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="plain convolution"):
        down_shape(same, 2)
