"""Our files in diffusers' pipeline and its files here: the same output of the networks."""

import logging

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from flax import nnx

from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import kohya, peft
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import attach
from flax_sd.lora.targets import match, slots
from flax_sd.models.clip import CLIPTextConfig, CLIPTextModel
from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.unet_config import UNetConfig
from flax_sd.weights.fill import fill
from flax_sd.weights.networks import OneKey
from tests import parity

pytestmark = pytest.mark.slow  # compiles a UNet

UNET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 8,
}
TEXT = {
    "vocab_size": 90,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 11,
    "hidden_act": "quick_gelu",
    "projection_dim": 24,
    "bos_token_id": 88,
    "eos_token_id": 89,
}
IDS = np.array([[88, 4, 5, 17, 89, 89, 89]] * 2)
LATENTS = 0.5 + np.random.default_rng(5).normal(size=(2, 10, 6, 4)).astype(np.float32)
T = np.array([7, 901])


@pytest.fixture
def pipeline():
    """A Stable Diffusion of diffusers' with small random networks."""
    unet = parity.randomise(diffusers.UNet2DConditionModel(**UNET), 0)
    text = parity.randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)), 1)
    return diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=text,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ours_of(pipeline):
    """Our networks with the pipeline's weights; to be made before it loads a LoRA."""
    text = CLIPTextConfig.from_json(TEXT)
    config = UNetConfig.from_json(UNET)
    abstract = {
        "unet": nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=OneKey())),
        "text_encoder": nnx.eval_shape(lambda: CLIPTextModel(text, rngs=OneKey())),
    }
    tensors = {name: parity.numpy_state(getattr(pipeline, name)) for name in abstract}
    tensors["text_encoder"] = {
        f"text_model.{key.removeprefix('text_model.')}": t
        for key, t in tensors["text_encoder"].items()
    }
    return {name: fill(abstract[name], tensors[name], "float32", "test") for name in abstract}


def random_lora(modules, targets, alphas):
    """Every picked layer with both halves random; the alphas take turns."""
    rng, lora = np.random.default_rng(2), {}
    for component, module in modules.items():
        for i, path in enumerate(match(module, targets)):
            *window, c_in, c_out = slots(module)[path].base.kernel.shape
            down = rng.normal(size=(3, c_in, *window)) / np.prod([c_in, *window]) ** 0.5
            up = 0.3 * rng.normal(size=(c_out, 3, *(1 for _ in window)))
            adapter = Adapter(np.float32(down), np.float32(up), alphas[i % len(alphas)])
            lora.setdefault(component, {})[path] = adapter
    return lora


def theirs_out(pipeline):
    with torch.no_grad():
        text = pipeline.text_encoder(torch.from_numpy(IDS)).last_hidden_state
        out = pipeline.unet(parity.to_torch(LATENTS), torch.from_numpy(T), text).sample
    return text, out


def ours_out(modules):
    text = modules["text_encoder"](jnp.asarray(IDS)).text
    graphdef, state = nnx.split(modules["unet"])
    unet = jax.jit(lambda state, *inputs: nnx.merge(graphdef, state)(*inputs))
    return text, unet(state, jnp.asarray(LATENTS), jnp.asarray(T), text)


def assert_same_output(modules, pipeline):
    for ours, theirs in zip(ours_out(modules), theirs_out(pipeline), strict=True):
        parity.assert_close(ours, theirs, parity.NETWORK)


@pytest.mark.parametrize(
    ("write", "targets", "alphas"),
    [
        (kohya.write, "attention", [5.0]),
        (kohya.write, "conv", [1.0, 2.0, 6.0]),  # diffusers itself reads only one alpha right
        (peft.write, "attention+ff", [1.0, 2.0, 6.0]),
        (peft.write, "conv", [5.0]),
    ],
)
def test_our_files_in_diffusers(pipeline, tmp_path, caplog, write, targets, alphas):
    modules = ours_of(pipeline)
    lora = random_lora(modules, targets, alphas)
    before = theirs_out(pipeline)[1]
    write(tmp_path / "lora.safetensors", lora)
    back = read(tmp_path, modules)
    assert {c: own.keys() for c, own in back.items()} == {c: own.keys() for c, own in lora.items()}
    diffusers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    diffusers_logging.disable_propagation()
    assert not caplog.records
    for component, module in modules.items():
        attach(module, lora[component], 1.0)
    assert_same_output(modules, pipeline)
    assert (theirs_out(pipeline)[1] - before).abs().max() > 0.1


def test_our_dora_in_diffusers(pipeline, tmp_path):
    modules, rng = ours_of(pipeline), np.random.default_rng(4)
    lora = {
        name: {
            path: adapter._replace(
                magnitude=rng.uniform(0.5, 1.5, len(adapter.up)).astype(np.float32)
            )
            for path, adapter in own.items()
        }
        for name, own in random_lora(modules, "conv", [5.0]).items()
    }
    peft.write(tmp_path / "lora.safetensors", lora)
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    for component, module in modules.items():
        attach(module, lora[component], 1.0)
    assert_same_output(modules, pipeline)


def test_a_file_of_diffusers_here(pipeline, tmp_path):
    """With metadata in its header, as training scripts write it."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    modules = ours_of(pipeline)
    targets = {"unet": ["to_q", "to_out.0", "conv1", "proj_in"], "text_encoder": ["q_proj", "fc1"]}
    layers = {}
    for component, names in targets.items():
        network = getattr(pipeline, component)
        network.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=names))
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        layers[f"{component}_lora_layers"] = get_peft_model_state_dict(network)
    metadata = {
        f"{c}_lora_adapter_metadata": {"r": 3, "lora_alpha": 5, "target_modules": names}
        for c, names in targets.items()
    }
    pipeline.save_lora_weights(tmp_path, **layers, **metadata)
    lora = read(tmp_path, modules)
    assert {adapter.alpha for own in lora.values() for adapter in own.values()} == {5.0}
    for component, module in modules.items():
        attach(module, lora[component], 1.0)
    assert_same_output(modules, pipeline)
