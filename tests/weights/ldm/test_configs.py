"""The configs that are made from tensors alone, against those of the public models."""

import json

import diffusers
import pytest
import torch

from flax_sd.errors import UserError
from flax_sd.weights.ldm.configs import component_config
from flax_sd.weights.ldm.contents import Contents, component_shapes
from flax_sd.weights.ldm.templates import base_configs
from tests.weights.ldm.public import COMPONENTS, FOLDERS, config, ldm_shapes, shapes

UNSAID = ("_diffusers_version", "_name_or_path", "torch_dtype", "transformers_version")


@pytest.mark.parametrize(("family", "component"), COMPONENTS)
def test_the_public_models_own_configs(public, family, component):
    sizes = shapes(public, family, component)
    file = ldm_shapes(component, family, sizes)
    read = component_shapes(file, Contents(file, "x").places[component])
    assert read == sizes
    # From a base of other sizes, so that each that the tensors tell is told by them.
    base = base_configs(family)[component]
    base |= {key: None for key in ("in_channels", "layers_per_block", "vocab_size") if key in base}
    wanted = {k: v for k, v in config(public, family, component).items() if k not in UNSAID}
    made = component_config(component, read, base, "x")
    assert {**wanted, **made} == made and wanted == {k: made[k] for k in wanted}


@pytest.mark.parametrize("family", FOLDERS)
def test_the_bundled_values_are_the_public_ones(public, family):
    ours = base_configs(family)
    theirs = json.loads((public / FOLDERS[family] / "scheduler/scheduler_config.json").read_text())
    unsaid = (*UNSAID, "prediction_type") if family == "sd2" else UNSAID
    assert ours["scheduler"] == {k: v for k, v in theirs.items() if k not in unsaid}


RELATIVES = {  # trap 15: of SDXL, by the fields that differ
    "SSD-1B": {
        "transformer_layers_per_block": [1, 2, 4],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "Vega": {
        "transformer_layers_per_block": [1, 1, 2],
        "reverse_transformer_layers_per_block": [[2, 2, 2], 1, 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "KOALA-1B": {"transformer_layers_per_block": [1, 2, 6], "layers_per_block": 1},
    "KOALA-700M": {
        "transformer_layers_per_block": [1, 2, 5],
        "layers_per_block": 1,
        "mid_block_type": None,
    },
    "inpainting": {"in_channels": 9},
    "edit": {"in_channels": 8},
}


def sizes_of(raw):
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel.from_config(raw)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", [*RELATIVES, "refiner"])
def test_relatives_of_sdxl(name):
    """Trap 15: the UNet that diffusers builds from our config has the same tensors."""
    base = base_configs("sdxl_refiner" if name == "refiner" else "sdxl")["unet"]
    sizes = sizes_of(base | RELATIVES.get(name, {}))
    made = component_config("unet", sizes, base, "x")
    assert sizes_of(made) == sizes
    if name == "refiner":
        assert made["projection_class_embeddings_input_dim"] == 2560 and made == base


def small():
    return sizes_of(
        {
            "block_out_channels": (320, 640),
            "cross_attention_dim": 768,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
        }
    )


def test_unets_that_no_class_builds():
    base = base_configs("sd1")["unet"]
    sizes = small()
    assert component_config("unet", sizes, base, "x")["block_out_channels"] == [320, 640]
    with pytest.raises(UserError, match="reads a second embedding .label_emb., as unCLIP does"):
        component_config("unet", {**sizes, "add_embedding.linear_1.weight": (1280, 5)}, base, "x")
    del sizes["conv_in.weight"]
    with pytest.raises(
        UserError, match="x: conv_in.weight should have two axes or more, found non"
    ):
        component_config("unet", sizes, base, "x")
    lacking = {
        key: shape for key, shape in small().items() if "up_blocks.1.attentions.0" not in key
    }
    with pytest.raises(
        UserError, match=r"up_blocks.1 of its UNet has transformers of depths \[0, 1"
    ):
        component_config("unet", lacking, base, "x")


def test_a_vae_without_tensors():
    with pytest.raises(UserError, match="its VAE has width 0 and not 128"):
        component_config("vae", {}, base_configs("sd1")["vae"], "x")


def test_scaling_factors():
    """Trap 21."""
    vaes = {family: base_configs(family)["vae"] for family in ("sd1", "sdxl", "sdxl_refiner")}
    assert "scaling_factor" not in vaes["sd1"]  # the class's default, 0.18215
    assert vaes["sdxl"]["scaling_factor"] == vaes["sdxl_refiner"]["scaling_factor"] == 0.13025
    assert vaes["sdxl"]["force_upcast"] is True
