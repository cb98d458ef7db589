"""DoRA against peft's: layers, their gradients, strengths, merging, and the files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from peft.tuners.lora import Conv2d, Linear, LoraConfig

from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import kohya, peft
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import attach, extract, inject
from flax_sd.lora.targets import slots
from flax_sd.lora.tools.low_rank import bake
from flax_sd.lora.tools.merge import merge
from flax_sd.models import layers
from flax_sd.weights import safetensors
from tests.lora.networks import small
from tests.lora.test_inject import random_adapters
from tests.parity import LAYER, assert_close, from_torch, to_torch

RANK, ALPHA = 4, 6.0
KINDS = ["linear", "conv3", "stride2", "conv1"]


def peft_layer(kind):
    """A DoRA with every tensor random, and an input."""
    torch.manual_seed(0)
    size, stride = {"conv3": (3, 1), "stride2": (3, 2), "conv1": (1, 1)}.get(kind, (0, 0))
    if kind == "linear":
        base, cls = torch.nn.Linear(10, 7), Linear
        x = np.random.default_rng(0).normal(size=(2, 5, 10))
    else:
        base, cls = torch.nn.Conv2d(6, 9, size, stride, padding=(size - 1) // 2), Conv2d
        x = 3 + np.random.default_rng(0).normal(size=(2, 11, 8, 6))
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, use_dora=True)
    theirs = cls(base, "default", config, r=RANK, lora_alpha=ALPHA)
    torch.nn.init.normal_(theirs.lora_B["default"].weight)
    with torch.no_grad():
        theirs.lora_magnitude_vector["default"].weight.mul_(0.5 + torch.rand(1))
        theirs.lora_magnitude_vector["default"].weight.add_(0.3)
    return theirs, x.astype(np.float32)


def leaves_of(theirs):
    return [
        theirs.lora_A["default"].weight,
        theirs.lora_B["default"].weight,
        theirs.lora_magnitude_vector["default"].weight,
    ]


def ours_from(theirs, kind, strength=1.0):
    """A network of one layer with peft's weights."""
    if kind == "linear":
        layer = layers.linear(10, 7, rngs=nnx.Rngs(0))
    else:
        size, stride = {"conv3": (3, 1), "stride2": (3, 2), "conv1": (1, 1)}[kind]
        layer = layers.conv(6, 9, size, stride, rngs=nnx.Rngs(0))
    kernel = theirs.base_layer.weight.detach().numpy()
    layer.kernel[...] = jnp.asarray(kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T)
    layer.bias[...] = jnp.asarray(theirs.base_layer.bias.detach().numpy())
    down, up, magnitude = (leaf.detach().numpy() for leaf in leaves_of(theirs))
    model = nnx.Dict(layer=layer)
    attach(model, {"layer": Adapter(down, up, ALPHA, magnitude.reshape(-1))}, strength)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_their_gradients_match_peft(kind):
    theirs, x = peft_layer(kind)
    model = ours_from(theirs, kind)
    graph, params, rest = nnx.split(model, nnx.LoRAParam, ...)

    @jax.jit
    def both(params, x):
        def value(params, x):
            out = nnx.merge(graph, params, rest)["layer"](x)
            return jnp.sum(jnp.square(out)), out

        return jax.grad(value, argnums=(0, 1), has_aux=True)(params, x)

    (grads, dx), out = both(params, jnp.asarray(x))
    their_x = to_torch(x).requires_grad_()
    their_out = theirs(their_x)
    their_out.square().sum().backward()
    assert_close(out, their_out, LAYER)
    assert_close(dx, from_torch(their_x.grad), LAYER)
    ours = extract(nnx.merge(graph, grads, rest))["layer"]
    for a, b in zip((ours.down, ours.up, ours.magnitude), leaves_of(theirs), strict=True):
        assert_close(a, b.grad.numpy().reshape(a.shape), LAYER)


@pytest.mark.parametrize("kind", ["linear", "stride2"])
@pytest.mark.parametrize("strength", [1.0, 0.4, -0.5])
def test_strengths_and_merging_match_peft(kind, strength):
    """peft scales ΔW alone, inside the norm."""
    theirs, x = peft_layer(kind)
    theirs.set_scale("default", strength)
    expected = theirs(to_torch(x) if x.ndim == 4 else torch.from_numpy(x)).detach()
    model = ours_from(theirs, kind, strength)
    assert_close(model["layer"](jnp.asarray(x)), expected, LAYER)
    merge(model)
    assert not hasattr(model["layer"], "adapters")
    assert_close(model["layer"](jnp.asarray(x)), expected, LAYER)


def test_a_fresh_one_changes_nothing_and_has_the_norms_of_the_weights():
    model, plain = small(), small()
    x, context = jnp.ones((2, 8, 6, 3)), jnp.ones((2, 4, 5))
    paths = inject(model, "conv", RANK, ALPHA, "gaussian", jax.random.key(1), dora=True)
    assert_close(model(x, context), plain(x, context), LAYER)
    made = extract(model)
    assert made.keys() == set(paths)
    kernel = np.asarray(plain.conv_down.kernel[...])
    assert_close(made["conv_down"].magnitude, np.sqrt((kernel**2).sum((0, 1, 2))), LAYER)
    abstract = nnx.eval_shape(small)
    inject(abstract, "conv", RANK, ALPHA, "gaussian", jax.random.key(1), dora=True)
    shapes = [jax.tree.map(jnp.shape, nnx.state(one)) for one in (model, abstract)]
    assert shapes[0] == shapes[1]


def doras(alpha=3.0):
    rng = np.random.default_rng(7)
    return {
        path: adapter._replace(magnitude=rng.uniform(1, 2, len(adapter.up)).astype(np.float32))
        for path, adapter in random_adapters(small(), alpha=alpha).items()
    }


@pytest.mark.parametrize(
    ("write", "alpha", "linear", "conv"),
    [
        (kohya.write, 3.0, ("lora_unet_attn2_to_q.dora_scale", (8, 1)), (8, 1, 1, 1)),
        (peft.write, 2.0, ("unet.attn2.to_q.lora_magnitude_vector", (8,)), (1, 8, 1, 1)),
    ],
)
def test_files_keep_the_magnitudes_along_the_outputs(tmp_path, write, alpha, linear, conv):
    adapters = doras(alpha)
    write(tmp_path / "a", {"unet": adapters})
    file = safetensors.TensorFile(tmp_path / "a")
    key, shape = linear
    assert file.shape(key) == shape
    (other,) = (k for k in file if "conv_down" in k and k.endswith(key.rpartition(".")[2]))
    assert file.shape(other) == conv
    back = read(tmp_path / "a", {"unet": small()})["unet"]
    assert back.keys() == adapters.keys()
    for path, adapter in adapters.items():
        jax.tree.map(np.testing.assert_array_equal, back[path], adapter)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 8), "has a magnitude for each input"),
        ((5, 1), r"magnitude is \[5\], the model's layer needs \[8\]"),
    ],
)
def test_magnitudes_that_cannot_be_used_are_named(tmp_path, shape, said):
    kohya.write(tmp_path / "a", {"unet": doras()})
    file = safetensors.TensorFile(tmp_path / "a")
    key = "lora_unet_attn2_to_q.dora_scale"
    tensors = {k: np.asarray(file[k]) for k in file} | {key: np.ones(shape, np.float32)}
    safetensors.write(tmp_path / "b", tensors, {})
    with pytest.raises(UserError, match=rf"(?s){key}.*{said}|{said}"):
        read(tmp_path / "b", {"unet": small()})


def test_baked_into_a_plain_lora():
    """Of full rank nothing is lost; below it what is lost is said, and it is the least."""
    x, context = jnp.linspace(-1, 2, 288).reshape(2, 8, 6, 3), jnp.linspace(0, 1, 40)
    context = context.reshape(2, 4, 5)
    model, plain, less = small(), small(), small()
    attach(model, doras(), 0.7)
    exact, lost = bake(model, 100)
    assert lost < 1e-6 and all(adapter.magnitude is None for adapter in exact.values())
    attach(plain, exact, 1.0)
    assert_close(plain(x, context), model(x, context), LAYER)
    few, lost = bake(model, 2)
    assert {adapter.rank for adapter in few.values()} == {2} and 0.05 < lost < 1
    attach(less, few, 1.0)
    table = {path: slot.layer for path, slot in slots(model).items()}
    wanted = {
        path: layer.adapters["default"].change(layer.kernel[...]) for path, layer in table.items()
    }
    missing = {
        path: wanted[path] - slot.layer.adapters["default"].delta()
        for path, slot in slots(less).items()
    }
    total = [sum(float(jnp.sum(one**2)) for one in each.values()) for each in (missing, wanted)]
    assert lost == pytest.approx((total[0] / total[1]) ** 0.5, rel=1e-4)
