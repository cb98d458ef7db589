"""Networks from a folder's config.json and tensors, or from its config.json and a key."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.vae import AutoencoderKL
from flax_sd.weights import networks
from flax_sd.weights.diffusers_folder import save_component
from flax_sd.weights.fill import state_tensors

VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 2,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps(VAE))
    return tmp_path


def test_a_random_network_depends_on_the_key_alone(folder):
    a, again, b = (
        state_tensors(networks.random_network(folder, "vae", jax.random.key(k), "float32"))
        for k in (0, 0, 1)
    )
    assert all(np.array_equal(a[key], again[key]) for key in a)
    assert not np.array_equal(a["decoder.conv_in.weight"], b["decoder.conv_in.weight"])


def test_what_was_saved_is_loaded_in_the_dtype_asked_for(folder):
    network = networks.random_network(folder, "vae", jax.random.key(0), "float32")
    save_component(folder, "vae", state_tensors(network), VAE)
    loaded = networks.load_network(folder, "vae", "float32")
    assert isinstance(loaded, AutoencoderKL) and loaded.config.block_out_channels == (4, 8)
    a, b = state_tensors(network), state_tensors(loaded)
    assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
    half = networks.load_network(folder, "vae", "bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(half))} == {"bfloat16"}


def test_a_random_network_has_the_dtype_asked_for(folder):
    half = networks.random_network(folder, "vae", jax.random.key(0), "float16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(half))} == {"float16"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "VQModel"}, "class VQModel is not one of AutoencoderKL, AutoencoderTiny"),
        ({"architectures": ["CLIPTextModelWithProjection"]}, "CLIPTextModelWithProjection is not"),
        ({}, r"class \? is not one of"),
        (VAE | {"act_fn": "gelu"}, "act_fn"),
    ],
)
def test_networks_that_are_not_supported(folder, config, message):
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        networks.load_network(folder, "vae", "float32")


def test_no_config(tmp_path):
    with pytest.raises(UserError, match="config.json could not be read: No such file"):
        networks.random_network(tmp_path, "unet", jax.random.key(0), "float32")


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


def indexed(folder, **entries):
    (folder / "model_index.json").write_text(json.dumps(entries))
    return folder


def config(folder, part, **fields):
    (folder / part).mkdir(exist_ok=True)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (folder / part / name).write_text(json.dumps(fields))


def test_the_index_names_the_class_as_in_diffusers(tmp_path):
    """F26: a config need not name its own class."""
    indexed(
        tmp_path,
        text_encoder=["transformers", "CLIPTextModel"],
        unet=["diffusers", "UNet2DConditionModel"],
        vae=[None, None],
        scheduler=["diffusers", "DDIMScheduler"],
    )
    for part in ("text_encoder", "unet", "scheduler"):
        config(tmp_path, part)
    config(tmp_path, "vae", _class_name="AutoencoderKL")
    raw = {name: networks.read_component_config(tmp_path, name) for name in ("unet", "vae")}
    text = networks.read_component_config(tmp_path, "text_encoder")
    assert text == {"architectures": ["CLIPTextModel"]}
    assert networks.network_config(text, "x")[0] is networks.KINDS["CLIPTextModel"]
    assert raw["unet"]["_class_name"] == "UNet2DConditionModel"
    assert raw["vae"] == {"_class_name": "AutoencoderKL"}
    assert networks.read_scheduler_config(tmp_path)["_class_name"] == "DDIMScheduler"


def test_a_text_encoder_outside_of_a_model(tmp_path):
    """F26: transformers finds the class by the type, and the fields of a whole CLIP inside."""
    config(tmp_path, "te", model_type="clip_text_model", num_hidden_layers=3)
    raw = networks.read_component_config(tmp_path, "te")
    assert networks.network_config(raw, "te")[1].num_hidden_layers == 3
    whole = {"architectures": ["CLIPTextModel"], "text_config": {"num_hidden_layers": 4}}
    assert networks.network_config(whole, "te")[1].num_hidden_layers == 4


@pytest.mark.parametrize("named", [{"_class_name": ["x", "Y"]}, {"architectures": 3}, {}])
def test_no_class_at_all(named):
    with pytest.raises(UserError, match=r"class \? is not one of"):
        networks.network_config(named, "vae")


@pytest.mark.parametrize(
    "name", [None, "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"]
)
def test_pipelines_of_the_same_parts(tmp_path, name):
    """F26: whose folders diffusers' StableDiffusionPipeline loads."""
    networks.check_kind(indexed(tmp_path, **({"_class_name": name} if name else {})))


def test_another_pipeline_is_named(tmp_path):
    indexed(tmp_path, _class_name="StableDiffusionXLPipeline")
    with pytest.raises(
        UserError, match="is a StableDiffusionXLPipeline; a StableDiffusionPipeline"
    ):
        networks.check_kind(tmp_path)
