"""Files that are not what they are named for: a sentence from Python and from the command."""

import re
import shutil
import struct

import diffusers
import numpy as np
import pytest
import torch

import flax_sd
from flax_sd.cli import sample
from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import kohya, peft
from flax_sd.weights import safetensors
from flax_sd.weights.safetensors import TensorFile
from tests.weights.ldm.conftest import singles
from tests.weights.ldm.tiny_files import vae

__all__ = ["singles"]
CROSS = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
HUGE = 10 * 2**30  # bytes


def adapters(text_width, component="text_encoder", width=768):
    def adapter(c_in, c_out):
        return Adapter(np.ones((2, c_in), np.float32), np.ones((c_out, 2), np.float32), 2.0)

    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    return {"unet": {CROSS: adapter(text_width, 16)}, component: {layer: adapter(width, width)}}


def without(source, path, *prefixes):
    tensors = {key: value for key, value in TensorFile(source).items()}
    kept = {key: value for key, value in tensors.items() if not key.startswith(prefixes)}
    safetensors.write(path, kept)


@pytest.fixture(scope="module")
def bad(singles, tmp_path_factory):
    """Each kind of bad file, by the name that the tests have for it."""
    root = tmp_path_factory.mktemp("bad")
    for form, write in (("kohya", kohya.write), ("peft", peft.write)):
        write(root / f"sdxl-{form}.safetensors", adapters(2048, "text_encoder_2", 1280))
        write(root / f"sd1-{form}.safetensors", adapters(768))
    whole = (singles / "sd1.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[:-1000])
    (root / "huge.safetensors").write_bytes(struct.pack("<Q", HUGE) + b"{}" + b" " * 99)
    torch.save({"state_dict": {"a": torch.ones(3)}}, root / "ckpt.safetensors")
    legacy = {"_use_new_zipfile_serialization": False}
    torch.save({"a": torch.ones(3)}, root / "old-ckpt.safetensors", **legacy)
    without(singles / "sd1.safetensors", root / "no-text.safetensors", "cond_stage_model.")
    shutil.copytree(singles / "sdxl", root / "no-text")
    shutil.rmtree(root / "no-text" / "text_encoder_2")
    diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=16,
    ).save_pretrained(root / "flux-vae")
    for name, scale in (("sd1-vae", 0.18215), ("sdxl-vae", 0.13025)):
        network = vae()
        network.register_to_config(scaling_factor=scale)
        network.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def models(singles):
    return {name: flax_sd.StableDiffusion.load(singles / name) for name in ("sd1", "sdxl")}


FILES = [  # no weights at all, whatever they were named for
    ("cut", "is not a whole safetensors file: .* 1000 bytes are missing; download or write it"),
    ("huge", f"its header claims {HUGE} bytes; 100000000 is the most"),
    ("ckpt", "is a pickle of torch .* by another name: it can run code .* convert it"),
    ("old-ckpt", "is a pickle .* by another name: it can run code .* convert it"),
]
LORAS = [
    ("sd1", "sdxl-kohya", "is a LoRA for SDXL; this model is .*: name a LoRA of this family, or"),
    ("sd1", "sdxl-peft", "is a LoRA for SDXL; this model is .*: name a LoRA of this family, or"),
    ("sdxl", "sd1-kohya", r"is a LoRA for Stable Diffusion 1.x \(cross-attention 768 wide\); this"),
    ("sdxl", "sd1-peft", r"is a LoRA for Stable Diffusion 1.x \(cross-attention 768 wide\); this"),
    *(("sd1", name, message) for name, message in FILES),
]
MODELS = [
    ("sdxl-kohya.safetensors", "is a LoRA, not a model: name the model that it was trained on"),
    ("sd1-peft.safetensors", "is a LoRA, not a model: name the model that it was trained on"),
    ("no-text.safetensors", "has no text_encoder: it holds unet and vae; name a checkpoint"),
    ("no-text", "has no text_encoder_2: it holds scheduler, text_encoder, .*; name a whole model"),
    *((f"{name}.safetensors", message) for name, message in FILES),
]
VAES = [
    ("sd1", "flux-vae", "the UNet reads 4 channels, the VAE .*flux-vae has 16"),
    ("sd1", "sdxl-vae", "VAE .*sdxl-vae is of another family, whose latents .* 0.13025; those"),
    ("sdxl", "sd1-vae", "VAE .*sd1-vae is of another family, whose latents have the scale 0.1821"),
    ("sd1", "{singles}/sdxl.safetensors", "sdxl.safetensors is of another family, whose latents"),
]


@pytest.fixture
def said(capsys, tmp_path):
    """Runs the command; returns the one line that it says, after its status is checked."""

    def run(*flags):
        words = [*map(str, flags), "--prompt", "a", "--steps", "1", "--out", str(tmp_path / "out")]
        assert sample(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.mark.parametrize(("model", "name", "message"), LORAS)
def test_a_lora_that_is_none_of_this_model(models, singles, bad, said, model, name, message):
    path = bad / f"{name}.safetensors"
    with pytest.raises(UserError, match=message) as caught:
        models[model].add_lora(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not models[model].loras
    assert said("--model", singles / model, "--lora", path) == f"error: {caught.value}"


@pytest.mark.parametrize(("name", "message"), MODELS)
def test_a_model_that_is_none(bad, said, name, message):
    with pytest.raises(UserError, match=message) as caught:
        flax_sd.StableDiffusion.load(bad / name)
    assert str(bad / name) in str(caught.value) and "\n" not in str(caught.value)
    assert said("--model", bad / name) == f"error: {caught.value}"


@pytest.mark.parametrize(("model", "vae", "message"), VAES)
def test_a_vae_of_another_family(singles, bad, said, model, vae, message):
    """Trap 21: the scale of its latents is all that tells SDXL's VAE from the others'."""
    line = said("--model", singles / model, "--vae", bad / vae.format(singles=singles))
    assert re.search(message, line)
