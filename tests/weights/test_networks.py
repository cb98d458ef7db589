"""Networks from a raw config.json: shapes alone, or random weights."""

import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.weights import networks
from flax_sd.weights.fill import state_tensors

VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 2,
}


def test_a_random_network_depends_on_the_key_alone():
    a, again, b = (
        state_tensors(networks.random_network(VAE, "vae", jax.random.key(k), "float32"))
        for k in (0, 0, 1)
    )
    assert all(np.array_equal(a[key], again[key]) for key in a)
    assert not np.array_equal(a["decoder.conv_in.weight"], b["decoder.conv_in.weight"])


def test_a_random_network_has_the_dtype_asked_for():
    half = networks.random_network(VAE, "vae", jax.random.key(0), "float16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(half))} == {"float16"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "VQModel"}, "class VQModel is not one of AutoencoderKL, AutoencoderTiny"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel is not"),
        ({}, r"class \? is not one of"),
        (VAE | {"act_fn": "gelu"}, "act_fn"),
    ],
)
def test_networks_that_are_not_supported(config, message):
    with pytest.raises(UserError, match=message):
        networks.abstract_network(config, "vae")


def test_abstract_networks_of_one_config_share_nothing_that_changes():
    first, second = (networks.abstract_network(VAE, "vae") for _ in range(2))
    assert nnx.split(first)[0] == nnx.split(second)[0]
    del first.quant_conv
    first.conv_in_twin = first.decoder.conv_in
    first.decoder.conv_in.kernel.set_value(None)
    third = networks.abstract_network(VAE, "vae")
    for network in (second, third):
        assert hasattr(network, "quant_conv") and not hasattr(network, "conv_in_twin")
        assert network.decoder.conv_in.kernel.shape == (3, 3, 4, 8)


@pytest.mark.parametrize("named", [{"_class_name": ["x", "Y"]}, {"architectures": 3}, {}])
def test_no_class_at_all(named):
    with pytest.raises(UserError, match=r"class \? is not one of"):
        networks.network_config(named, "vae")
