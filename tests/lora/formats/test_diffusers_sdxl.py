"""LoRAs of SDXL in diffusers' pipeline and here: the same text states and images."""

import logging

import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

import flax_sd
from flax_sd.lora.formats import kohya, kohya_families, peft
from flax_sd.lora.formats.read import read
from flax_sd.lora.targets import slots
from flax_sd.weights.model_files import ModelFiles
from tests import tiny
from tests.parity import NETWORK, assert_close
from tests.random_loras import random_lora
from tests.tiny import PROMPTS, SEEDS, SIZE

# NumPy 2 about the Euler schedulers of diffusers.
pytestmark = [
    pytest.mark.slow,  # compiles a UNet
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
]
DRAW = {"guidance_scale": 1.0, **SIZE, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl") / "model"
    tiny.build_xl().save_pretrained(folder)
    return folder


@pytest.fixture
def networks(folder):
    files = ModelFiles(folder)
    return {name: files.abstract(name) for name in files.kind.adapted}


@pytest.fixture(scope="module")
def without(folder):
    """What diffusers makes without a LoRA."""
    return made_by(tiny.load(folder))


def made_by(pipeline):
    """The states of each text encoder, the pooled ones, and latents."""
    with torch.no_grad():
        text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    latents = tiny.draw(pipeline, PROMPTS, None, SEEDS, **DRAW)
    return text[..., :12].numpy(), text[..., 12:].numpy(), pooled.numpy(), latents


def assert_same_with_lora(folder, pipeline, file, without):
    """The pipeline has loaded the file already."""
    sd = flax_sd.StableDiffusion.load(folder)
    sd.add_lora(file)
    states = sd.encode_prompt(PROMPTS)
    latents = sd.generate(PROMPTS, None, seed=SEEDS, output="latents", **DRAW)
    ours = states.text[..., :12], states.text[..., 12:], states.pooled, latents
    for mine, theirs, before in zip(ours, made_by(pipeline), without, strict=True):
        assert_close(mine, theirs, NETWORK)
        assert np.abs(theirs - before).max() > 0.05


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_our_files_in_diffusers(folder, networks, tmp_path, caplog, without, form):
    """Every layer, the text projection too."""
    lora, path = random_lora(folder, targets="conv"), tmp_path / "lora.safetensors"
    if form == "kohya":
        kohya.write(path, lora, naming=kohya_families.naming("sdxl", slots(networks["unet"])))
    else:
        peft.write(path, lora)
    pipeline = tiny.load(folder)
    diffusers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    diffusers_logging.disable_propagation()
    assert not caplog.records
    back = read(path, networks)
    assert {c: own.keys() for c, own in back.items()} == {c: own.keys() for c, own in lora.items()}
    assert_same_with_lora(folder, pipeline, path, without)


def test_a_file_of_diffusers_here(folder, tmp_path, without):
    """As its training script for SDXL saves one, with metadata in the header."""
    pipeline, layers, metadata = tiny.load(folder), {}, {}
    targets = {"unet": ["to_k", "to_out.0", "conv1", "linear_2"], "text_encoder": ["q_proj"]}
    targets["text_encoder_2"] = ["out_proj", "fc1", "text_projection"]
    torch.manual_seed(0)
    for component, names in targets.items():
        network = getattr(pipeline, component)
        network.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=names))
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        layers[f"{component}_lora_layers"] = get_peft_model_state_dict(network)
        config = {"r": 3, "lora_alpha": 5, "target_modules": names}
        metadata[f"{component}_lora_adapter_metadata"] = config
    pipeline.save_lora_weights(tmp_path, **layers, **metadata)
    lora = read(tmp_path)
    assert lora.keys() == targets.keys() and "text_projection" in lora["text_encoder_2"]
    assert {adapter.alpha for own in lora.values() for adapter in own.values()} == {5.0}
    assert_same_with_lora(folder, pipeline, tmp_path, without)
