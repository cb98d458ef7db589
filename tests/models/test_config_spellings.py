"""Every field of every network's config, in every spelling, against diffusers' own class (F26).

Fields are read from the classes, so that a new one cannot be forgotten: absent, null, its default,
and its default as a list of one entry or of one a block. What diffusers builds and calls must be
built here, with the same output; what it cannot is refused, or does not matter. Where a value gives
the weights other shapes it is these that are compared: other tests run networks of many shapes.
"""

import dataclasses
import functools
import inspect
import warnings

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from flax_sd.errors import UserError
from flax_sd.weights.diffusers_folder import current_names
from flax_sd.weights.fill import fill
from flax_sd.weights.networks import abstract_network, network_config
from tests import parity

ABSENT = object()
BLOCKS = 2
UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
UNET_2D = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [8, 16],
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * BLOCKS,
    "up_block_types": ["UpDecoderBlock2D"] * BLOCKS,
    "norm_num_groups": 2,
}
TINY = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [4, 4],
    "decoder_block_out_channels": [4, 4],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}
CLIP = {
    "architectures": ["CLIPTextModel"],
    "vocab_size": 99,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "eos_token_id": 2,
}
BASES = {"unet": UNET, "unet_2d": UNET_2D, "vae": VAE, "tiny": TINY, "clip": CLIP}
CLASSES = {name: getattr(diffusers, raw["_class_name"]) for name, raw in list(BASES.items())[:-1]}
SPELLINGS = {  # further ones
    "act_fn": ["swish", "SiLU", "Swish", "relu", "ReLU", "gelu", "mish"],
    "hidden_act": ["gelu", "gelu_python", "gelu_new", "GELU"],
    "down_block_types": [["UNetResCrossAttnDownBlock2D", "UNetResDownBlock2D"]],
    "mid_block_type": ["UNetMidBlock2D"],
    "cross_attention_dim": [[6, 6], [6, 7], [6, None]],
    "transformer_layers_per_block": [[1, 2], [2, 1], 2],
    "reverse_transformer_layers_per_block": [[1, 1], [2, 1]],
    "attention_head_dim": [[2, 4], [2, 3], 4],
    "layers_per_block": [[1, 2], 2],
    "time_embedding_dim": [32, 20, 0],
    "num_attention_heads": [2],
    "class_embed_type": ["none", "timestep"],
    "attention_type": ["gated", "none"],
    "time_embedding_type": ["fourier"],
    "time_embedding_act_fn": ["silu"],
    "timestep_post_act": ["silu"],
    "dropout": [0.1],
    "attention_dropout": [0.1],
    "freq_shift": [1, 0.5],
    "downsample_padding": [0, [1, 1]],
    "attn_norm_num_groups": [4, 2],
    "downsample_type": ["resnet"],
    "upsample_type": ["resnet"],
    "shift_factor": [0, 0.0, [0.0]],
    "latents_mean": [[0.0, 0.0, 0.0, 0.0]],
    "latents_std": [[1.0, 1.0, 1.0, 1.0]],
    "sample_size": [[8, 12], 8],
    "upsample_fn": ["nearest-exact", "bilinear"],
    "upsampling_scaling_factor": [2.0, 3],
    "encoder_hid_dim": [5],
    "eos_token_id": [7],
}


def fields(kind):
    """Every field of the reference's class, with its default."""
    if kind == "clip":
        own = transformers.CLIPTextConfig.__annotations__.keys()
        reference = transformers.CLIPTextConfig()
        found = {name: getattr(reference, name) for name in own if name in vars(reference)}
        return found
    parameters = inspect.signature(CLASSES[kind].__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self"}


def spellings(kind, name, default):
    """The values to try; lists as JSON has them."""
    base = BASES[kind].get(name, default)
    plain = [list(v) if isinstance(v, tuple) else v for v in (default, base)]
    tried = [ABSENT, None, plain[0], [plain[0]], [plain[1]], [plain[1]] * BLOCKS]
    flags = [0, 1, not default] if isinstance(default, bool) else []
    return [*tried, *flags, *SPELLINGS.get(name, [])]


@functools.cache
def inputs(channels, side=8):
    return np.random.default_rng(channels).normal(size=(2, side, side + 4, channels)) + 0.3


@torch.no_grad()
def theirs(kind, raw):
    """What the reference gives, and its weights; raises whatever it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "clip":
            config = transformers.CLIPTextConfig.from_dict(raw)
            network = parity.randomise(transformers.CLIPTextModel(config))
            out = network(torch.from_numpy(ids()))
            return network, [out.last_hidden_state, out.pooler_output]
        network = parity.randomise(CLASSES[kind].from_config(raw))
        config = network.config
        x = parity.to_torch(inputs(config.in_channels).astype(np.float32))
        t = torch.tensor([3, 700])
        if kind == "unet_2d":
            return network, [network(x, t).sample]
        if kind == "unet":
            width = config.cross_attention_dim
            text = states(width if isinstance(width, int) else width[0])
            return network, [network(x, t, torch.from_numpy(text)).sample]
        z = network.encode(x)
        z = z.latents if kind == "tiny" else z.latent_dist.mean
        image = network.decode(z / config.scaling_factor * config.scaling_factor).sample
        return network, [z, image]


def fill_abstract(raw, reference):
    """Our network with the reference's weights; raises if one has another shape."""
    network = abstract_network(raw, "config.json")
    tensors = current_names(parity.numpy_state(reference))
    return fill(network, tensors, "float32", "weights")


def ours(kind, raw, reference):
    network = fill_abstract(raw, reference)
    if kind == "clip":
        return list(network(jnp.asarray(ids())))
    x = jnp.asarray(inputs(network.config.in_channels), jnp.float32)
    t = jnp.array([3, 700])
    if kind == "unet_2d":
        return [network(x, t)]
    if kind == "unet":
        return [network(x, t, jnp.asarray(states(network.config.cross_attention_dim)))]
    z = network.encode(x).mean
    return [z, network.decode(z)]


def ids():
    return np.array([[0, 5, 7, 98, 98], [0, 9, 98, 7, 98]])


@functools.cache
def states(width):
    return np.random.default_rng(width).normal(size=(2, 5, width)).astype(np.float32)


@functools.cache
def base(kind):
    return theirs(kind, BASES[kind])


def config_of(raw):
    config = network_config(raw, "config.json")[1]
    sized = hasattr(config, "sample_size")  # which no network reads
    return dataclasses.replace(config, sample_size=None) if sized else config


def shapes(network):
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def same(a, b):
    """Whether two runs of the reference have the same weights and outputs."""
    (first, outs), (second, others) = a, b
    return shapes(first) == shapes(second) and all(map(torch.equal, outs, others))


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in BASES for name in fields(kind)]
)
def test_a_field_means_what_it_means_to_the_reference(kind, name):
    for value in spellings(kind, name, fields(kind)[name]):
        raw = {key: v for key, v in BASES[kind].items() if key != name}
        raw |= {} if value is ABSENT else {name: value}
        try:
            reference = theirs(kind, raw)
        except Exception:  # of any kind: it does not load, or does not run
            reference = None
        try:
            config = config_of(raw)
        except UserError as error:
            assert name in str(error) or "fit" in str(error), (value, error)
            changed = reference is None or not same(reference, base(kind))
            assert changed, f"{value!r} changes nothing, and is refused: {error}"
            continue
        if reference is None:
            continue
        if config == config_of(BASES[kind]):
            assert same(reference, base(kind)), f"{value!r} makes another network"
            continue
        if shapes(reference[0]) != shapes(base(kind)[0]):
            fill_abstract(raw, reference[0])
            continue
        for a, b in zip(ours(kind, raw, reference[0]), reference[1], strict=True):
            parity.assert_close(a, b, parity.NETWORK)
