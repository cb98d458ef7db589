import re

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.unet_conditions import AddedConditions, AddedEmbedding
from flax_sd.models.unet_config import UNetConfig
from flax_sd.system.flops import count_flops
from flax_sd.weights.fill import checkpoint_key, fill, state_tensors, to_torch_layout
from flax_sd.weights.networks import OneKey
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
SDXL_LIKE = {
    **SD1_LIKE,
    "block_out_channels": [16, 32, 48],
    "down_block_types": [DOWN[1], DOWN[0], DOWN[0]],
    "up_block_types": [UP[1], UP[1], UP[0]],
    "attention_head_dim": [2, 4, 6],
    "layers_per_block": 1,
    "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2, 3],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 6,
    "projection_class_embeddings_input_dim": 6 * 6 + 11,
}
SSD_LIKE = {  # distilled ones have fewer layers on the way up, and no attention in the middle
    **SDXL_LIKE,
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [0, [2, 0], 1],
    "reverse_transformer_layers_per_block": [[1, 1, 2], [2, 1, 1], 1],
}
SMALL = {
    **SD1_LIKE,
    "block_out_channels": [8],
    "down_block_types": [DOWN[0]],
    "up_block_types": [UP[1]],
    "layers_per_block": 1,
    "norm_num_groups": 4,  # at one channel a group the norm undoes every shift before it
}  # compiles quickly
SD1_FULL = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "sample_size": 64,
}
SDXL_FULL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "down_block_types": [DOWN[1], DOWN[0], DOWN[0]],
    "up_block_types": [UP[1], UP[1], UP[0]],
    "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
REFINER_FULL = {
    **SDXL_FULL,
    "cross_attention_dim": 1280,
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": [DOWN[1], DOWN[0], DOWN[0], DOWN[1]],
    "up_block_types": [UP[0], UP[1], UP[1], UP[0]],
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
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
    return nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=OneKey()))


def pair(raw, seed=0):
    """diffusers' network with random weights, and ours with the same."""
    theirs = parity.randomise(diffusers.UNet2DConditionModel(**raw), seed)
    return theirs, fill(abstract(raw), parity.numpy_state(theirs), "float32", "test")


def inputs(raw, h, w, batch=3):
    rng = np.random.default_rng(1)
    latents = 0.7 + rng.normal(size=(batch, h, w, raw["in_channels"])).astype(np.float32)
    text = -0.3 + rng.normal(size=(batch, 7, raw["cross_attention_dim"])).astype(np.float32)
    return latents, text


def call(f, *args):
    """f(*args), compiled in less time than a program that runs once is worth."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})(*args)


def run(theirs, latents, t, text, added=None):
    more = {}
    if added is not None:
        pooled, ids = map(torch.tensor, added)
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
    arrays = parity.to_torch(latents), torch.from_numpy(np.array(t)), torch.tensor(text)
    with torch.no_grad():
        return theirs(*arrays, **more).sample


@pytest.mark.parametrize(
    "raw, size, t",
    [
        (SD1_LIKE, (12, 8), np.array([0, 381, 999])),
        (SD1_LIKE, (9, 14), np.array([0.25, 500.5, 998.75], np.float32)),
        (SD2_LIKE, (7, 5), np.array([1, 2, 900], np.int32)),
    ],
    ids=["sd1", "sd1 odd size", "sd2 odd size"],
)
def test_output_equals_diffusers(raw, size, t):
    theirs, ours = pair(raw)
    latents, text = inputs(raw, *size)
    out = call(lambda *args: ours(*args), latents, t, text)
    parity.assert_close(out, run(theirs, latents, t, text), parity.NETWORK)


def added_conditions(count=6):
    rng = np.random.default_rng(2)
    pooled = (0.4 + rng.normal(size=(3, 11))).astype(np.float32)
    sizes = [[1023, 768, 5, 0, 1024, 1000], [64] * 6, [0, 1, 2, 3, 4, 5]]
    return AddedConditions(pooled, np.array(sizes, np.float32)[:, :count])


@pytest.mark.parametrize(
    "raw, size", [(SDXL_LIKE, (12, 8)), (SSD_LIKE, (9, 7))], ids=["sdxl", "distilled, odd size"]
)
def test_sdxl_equals_diffusers(raw, size):
    """Trap 15: the depth of each block."""
    theirs, ours = pair(raw)
    latents, text = inputs(raw, *size)
    t, added = np.array([1, 381, 999]), added_conditions()
    out = call(lambda *args: ours(*args), latents, t, text, added)
    parity.assert_close(out, run(theirs, latents, t, text, added), parity.NETWORK)


def test_the_refiner_reads_five_numbers():
    raw = {**SDXL_LIKE, "projection_class_embeddings_input_dim": 5 * 6 + 11}
    theirs, ours = pair(raw)
    (latents, text), t, added = inputs(raw, 4, 6), np.array([1, 381, 999]), added_conditions(5)
    out = call(lambda *args: ours(*args), latents, t, text, added)
    parity.assert_close(out, run(theirs, latents, t, text, added), parity.NETWORK)


def test_sizes_are_not_rounded_to_the_networks_dtype():
    """Trap 13: diffusers reads 1023 as 1024 in bfloat16."""
    config = UNetConfig.from_json(SDXL_LIKE)
    embed = AddedEmbedding(config, rngs=nnx.Rngs(0))
    graph, state = nnx.split(embed)
    half = nnx.merge(graph, jax.tree.map(lambda x: x.astype("bfloat16"), state))
    sizes = [[size] * 6 for size in (1023, 1024)]
    out = half(jnp.zeros((2, 11)), jnp.array(sizes), jnp.dtype("bfloat16"))
    assert np.any(np.asarray(out[0] != out[1]))
    own = embed(jnp.zeros((2, 11)), jnp.array(sizes), jnp.dtype("float32"))
    parity.assert_close(np.asarray(out, np.float32), own, 0.02)


def test_a_unet_says_which_conditions_it_needs():
    (latents, text), t = map(jnp.asarray, inputs(SMALL, 4, 6)), jnp.array([1, 2, 3])
    with pytest.raises(UserError, match="needs added conditions"):
        pair(SDXL_LIKE)[1](latents, t, text)
    with pytest.raises(UserError, match="reads no added conditions"):
        pair(SMALL)[1](latents, t, text, added_conditions())


@pytest.mark.parametrize("raw", [SDXL_FULL, REFINER_FULL, SSD_LIKE], ids=["xl", "refiner", "ssd"])
def test_tensor_names_of_sdxl_equal_diffusers(raw):
    test_tensor_names_and_shapes_equal_diffusers(raw)


@pytest.mark.parametrize("raw", [SD1_FULL, SD2_FULL, SD2_LIKE], ids=["SD 1.5", "SD 2.1", "small"])
def test_tensor_names_and_shapes_equal_diffusers(raw):
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**raw).state_dict()
    _, state = nnx.split(abstract(raw))
    ours = {}
    for path, var in nnx.to_flat_state(state):
        layout = to_torch_layout(path, np.broadcast_to(np.float32(0), var.shape))
        ours[checkpoint_key(path)] = layout.shape
    assert ours == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


def test_save_gives_back_the_tensors_loaded():
    theirs, ours = pair(SMALL)
    expected, actual = parity.numpy_state(theirs), state_tensors(ours)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)


def loss(graphdef, state, latents, text):
    out = nnx.merge(graphdef, state)(latents, jnp.array([1, 500, 900]), text)
    return jnp.mean(jnp.square(out - latents))


def gradients(unet):
    latents, text = map(jnp.asarray, inputs(SMALL, 5, 6))
    graphdef, state = nnx.split(unet)
    grad = jax.grad(lambda state: loss(graphdef, state, latents, text))
    return call(grad, state), count_flops(grad, state)


def test_a_new_network_outputs_zero_and_learns():
    unet = UNet2DConditionModel(UNetConfig.from_json(SMALL), rngs=nnx.Rngs(0))
    grads, _ = gradients(unet)
    moved = {path[0]: g[...] for path, g in nnx.to_flat_state(grads) if np.any(g[...])}
    assert moved.keys() == {"conv_out"}  # which opens the way for the others
    latents, _ = inputs(SMALL, 5, 6)  # d/db mean((out - x)²) at out = 0
    expected = -2 * latents.mean((0, 1, 2)) / 4
    parity.assert_close(grads["conv_out"]["bias"][...], expected, parity.LAYER)


@pytest.mark.slow
def test_gradients_with_rematerialisation_are_equal():
    _, ours = pair(SMALL)
    plain, flops = gradients(ours)
    for remat, low, high in [("blocks", 1.2, 1.4), ("full", 1.5, 1.7)]:
        ours.remat = remat
        again, more_flops = gradients(ours)
        assert low * flops < more_flops < high * flops  # a forward pass is a third of a step
        for a, b in zip(*map(jax.tree.leaves, (again, plain)), strict=True):
            parity.assert_close(a, b, parity.LAYER)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_computes_in_the_dtype_of_the_parameters(dtype):
    theirs, ours = pair(SMALL)
    graphdef, state = nnx.split(ours)
    half = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(dtype), state))
    latents, text = inputs(SMALL, 4, 6)
    t = np.array([3, 400, 990])
    arrays = map(jnp.asarray, (latents, t, text))
    lowered = jax.jit(lambda *args: half(*args)).lower(*arrays).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*x(\w+)>", lowered)
    assert set(convolutions) == {{"bfloat16": "bf16", "float16": "f16"}[dtype]}
    out = call(lambda *args: half(*args), latents, t, text)
    assert out.dtype == dtype
    parity.assert_close(out, run(theirs, latents, t, text), 0.05)


def test_rows_do_not_depend_on_each_other():
    _, ours = pair(SMALL)
    latents, text = inputs(SMALL, 4, 6)
    t = np.array([3, 400, 990])
    out = call(lambda *args: ours(*args), latents, t, text)
    changed = [np.concatenate([x[:1] * 0, x[1:2], x[2:] + 1]) for x in (latents, t, text)]
    other = call(lambda *args: ours(*args), *changed)
    np.testing.assert_array_equal(out[1], other[1])
