"""Original (LDM) names of the UNet's layers, which kohya's files for SDXL have."""

import types

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)

from flax_sd.lora.formats import kohya_families, sd_layers
from flax_sd.lora.formats.contents import read_contents
from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.formats.keys import name_table
from flax_sd.lora.formats.ldm_names import PUBLIC, is_original, unet_renaming
from flax_sd.lora.formats.read import read
from flax_sd.lora.targets import match, slots
from flax_sd.weights import safetensors
from flax_sd.weights.safetensors import TensorFile
from tests.lora.formats.files import pair
from tests.lora.networks import names_hash

pytestmark = pytest.mark.slow  # traces the UNet of SDXL


@pytest.fixture(scope="session")
def written(sdxl):
    """The name in a written file of each layer of SDXL."""
    naming = kohya_families.naming("sdxl", slots(sdxl["unet"]))
    refs = [LayerRef(name, path) for name, network in sdxl.items() for path in slots(network)]
    return {ref: naming.name(ref) for ref in refs}


def test_names_are_sd_scripts(sdxl, written):
    """The counts and hashes of `lora_names_ref.py`, which were checked with ComfyUI's names."""
    unet = [name for ref, name in written.items() if ref.component == "unet"]
    assert (len(unet), names_hash(unet)) == (794, "22623a7118884df9")
    targets = match(sdxl["unet"], "sd-scripts")
    default = [written[LayerRef("unet", path)] for path in targets]
    assert (len(default), names_hash(default)) == (722, "5d819b833e27947d")
    assert len(set(written.values())) == len(written) == 794 + 72 + 192 + 1
    texts = [written[ref] for ref in written if ref.path.endswith("layers.3.mlp.fc1")]
    inside = "text_model_encoder_layers_3_mlp_fc1"
    assert texts == [f"lora_te1_{inside}", f"lora_te2_{inside}"]


def test_names_of_sd1_and_sd2_are_diffusers():
    for family in ("sd1", "sd2"):
        naming = kohya_families.naming(family, ["down_blocks.0.resnets.0.conv1"])
        ref = LayerRef("unet", "down_blocks.0.resnets.0.conv1")
        assert naming.name(ref) == "lora_unet_down_blocks_0_resnets_0_conv1"
        text = LayerRef("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
        assert naming.name(text) == "lora_te_text_model_encoder_layers_0_mlp_fc1"


def test_names_mean_what_they_mean_to_diffusers(written):
    """diffusers' own converter as the oracle, for every layer."""
    theirs = {
        f"{name}.lora_down.weight": torch.tensor([i]) for i, name in enumerate(written.values())
    }
    theirs |= {key.replace("down", "up"): tensor for key, tensor in theirs.items()}
    config = types.SimpleNamespace(layers_per_block=2)
    converted, _ = _convert_non_diffusers_lora_to_diffusers(
        _maybe_map_sgm_blocks_to_diffusers(theirs, config)
    )
    refs, table = list(written), sd_layers.names()
    for key, index in converted.items():
        name = key.removesuffix(".weight").removesuffix(".down").removesuffix(".up")
        name = name.removesuffix("_lora").removesuffix(".lora").removesuffix(".lora_linear_layer")
        assert table[name] == refs[int(index)], key
    assert len(converted) == 2 * len(written)


def test_every_name_is_read_with_and_without_the_model(sdxl, written):
    refs = list(written)
    with_model = name_table(refs, [unet_renaming(slots(sdxl["unet"]))])
    for table in (with_model, sd_layers.names()):
        for ref, name in written.items():
            assert table[name] == ref
            if ref.component == "unet":
                dotted = PUBLIC[1].to_ldm(ref.path)
                assert table[f"diffusion_model.{dotted}"] == ref
            assert is_original(name) == (ref.component == "unet")
    assert table["text_encoders.clip_g.transformer.text_projection"].component == "text_encoder_2"


def test_the_names_of_the_public_models_do_not_contradict_each_other(sd15, sdxl):
    for unet, renaming in ((sd15, PUBLIC[0]), (sdxl["unet"], PUBLIC[1])):
        table = sd_layers.names()
        for path in slots(unet):
            name = "lora_unet_" + renaming.to_ldm(path).replace(".", "_")
            assert table[name] == LayerRef("unet", path)


@pytest.mark.parametrize("form", ["lora_unet_{flat}", "diffusion_model.{path}"])
def test_files_of_sd1_may_have_them(sd15, tmp_path, form):
    path = PUBLIC[0].to_ldm("up_blocks.0.upsamplers.0.conv")
    assert path == "output_blocks.2.1.conv"
    name = form.format(path=path, flat=path.replace(".", "_"))
    content = {
        f"{name}.lora_down.weight": np.ones((2, 1280, 3, 3), np.float32),
        f"{name}.lora_up.weight": np.ones((1280, 2, 1, 1), np.float32),
        f"{name}.alpha": np.array(1.0, np.float32),
    }
    safetensors.write(tmp_path / "lora.safetensors", content)
    lora = read(tmp_path, {"unet": sd15})
    assert lora["unet"]["up_blocks.0.upsamplers.0.conv"].scale == 0.5


def test_numbers_are_counted_by_the_blocks_of_the_model(tmp_path):
    """KOALA has one ResBlock a block, so its third place is no downsampler."""
    known = [
        LayerRef("unet", f"{way}_blocks.{block}.resnets.{layer}.conv1")
        for way, layers in (("down", 1), ("up", 2))
        for block in range(3)
        for layer in range(layers)
    ]
    safetensors.write(tmp_path / "a", pair("lora_unet_input_blocks_3_0_in_layers_2"))
    file = TensorFile(tmp_path / "a")
    assert [ref.path for ref in read_contents(file, known).layers] == [
        "down_blocks.1.resnets.0.conv1"
    ]
    assert not read_contents(file).layers
    safetensors.write(tmp_path / "b", pair("lora_unet_input_blocks_4_0_in_layers_2"))
    assert not read_contents(TensorFile(tmp_path / "b"), known).layers
