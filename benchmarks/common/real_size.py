"""Loads, samples and trains at the real sizes of Stable Diffusion, with random weights.

python -m benchmarks.common.real_size sd15|sd21|sdxl [--folder DIR] [--resolution 512]

Writes a diffusers folder of the family's real sizes (4.3 or 5.2 GB in float32; SDXL 6.9 GB in
bfloat16), then runs the product's own commands on it: two steps of one image, and two LoRA steps of
a family that has a recipe. Prints seconds and peak memory.
"""

import argparse
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import jax
import numpy as np

from benchmarks.common.options import ROOT
from flax_sd.weights import diffusers_folder as model_folder
from flax_sd.weights import networks
from flax_sd.weights.fill import state_tensors

BUNDLED = ROOT / "flax_sd" / "bundled" / "base"

# The values of the released config.json files that shape the networks.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [320, 640, 1280, 1280],
    "in_channels": 4,
    "out_channels": 4,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
TEXT = {"architectures": ["CLIPTextModel"], "vocab_size": 49408, "max_position_embeddings": 77}
FAMILIES = {
    "sd15": {
        "unet": UNET | {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        "vae": VAE,
        "text_encoder": TEXT
        | {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "hidden_act": "quick_gelu",
        },
    },
    "sd21": {
        "unet": UNET
        | {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "vae": VAE,
        "text_encoder": TEXT
        | {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "hidden_act": "gelu",
        },
    },
}
FAMILIES["sdxl"] = {
    "unet": UNET
    | {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    "text_encoder": FAMILIES["sd15"]["text_encoder"] | {"eos_token_id": 2},
    "text_encoder_2": TEXT
    | {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "hidden_act": "gelu",
        "projection_dim": 1280,
        "eos_token_id": 2,
    },
}
INDEX = {  # of SDXL; the others have that of the bundled model
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
PREDICTION = {"sd15": "epsilon", "sd21": "v_prediction", "sdxl": "epsilon"}
DTYPES = {"sd15": "float32", "sd21": "float32", "sdxl": "bfloat16"}


def write_folder(family: str, target: pathlib.Path) -> int:
    """Writes the model; returns its number of parameters."""
    count = 0
    with model_folder.written_aside(target) as aside:
        write_configs(family, aside)
        for number, (name, raw) in enumerate(FAMILIES[family].items()):
            key = jax.random.key(number)
            network = networks.random_network(raw, name, key, DTYPES[family])
            tensors = {key: not_zero(value) for key, value in state_tensors(network).items()}
            model_folder.save_component(aside, name, tensors, raw)
            count += sum(tensor.size for tensor in tensors.values())
    return count


def write_configs(family: str, target: pathlib.Path) -> None:
    """Writes the model without its weights."""
    shutil.copytree(BUNDLED / "tokenizer", target / "tokenizer")
    if family == "sdxl":
        second = target / "tokenizer_2"
        shutil.copytree(BUNDLED / "tokenizer", second)
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (second / name).is_file():
                own = json.loads((second / name).read_text())
                model_folder.write_json(second / name, own | {"pad_token": "!"})
        model_folder.write_json(target / "model_index.json", INDEX)
    else:
        shutil.copy(BUNDLED / "model_index.json", target)
    scheduler = json.loads((BUNDLED / "scheduler" / "scheduler_config.json").read_text())
    scheduler["prediction_type"] = PREDICTION[family]
    model_folder.write_json(target / "scheduler" / "scheduler_config.json", scheduler)
    for name, raw in FAMILIES[family].items():
        model_folder.write_json(target / name / "config.json", raw)


def not_zero(tensor: np.ndarray) -> np.ndarray:
    """The tensor, or small numbers for a kernel that starts at zero: an output to compare."""
    if tensor.ndim < 2 or tensor.any():
        return tensor
    return np.random.default_rng(0).normal(0, 0.02, tensor.shape).astype(tensor.dtype)


def timed(label: str, command: list[str]) -> None:
    """Runs a command of the product and prints how long it took and the largest memory so far."""
    start = time.monotonic()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{label}: {time.monotonic() - start:.0f} s, peak {peak:.1f} GiB so far", flush=True)


def main() -> None:
    """Writes the folder in a process of its own, then measures the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/real_size"))
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--write-only", action="store_true", help="write the model and stop")
    options = parser.parse_args()
    model = options.folder.absolute() / options.family
    if options.write_only:
        print(f"{options.family}: {write_folder(options.family, model):,} parameters", flush=True)
        return
    side, here = str(options.resolution), str(options.folder)
    write = ["-m", "benchmarks.common.real_size", options.family, "--folder", here, "--write-only"]
    subprocess.run([sys.executable, *write], cwd=ROOT, check=True)
    sample = ["sample.py", "--model", str(model), "--prompt", "a cat", "--steps", "2"]
    sample += ["--dtype", DTYPES[options.family]]
    size = ["--width", side, "--height", side, "--out", str(model) + "_images"]
    timed("sample, 2 steps", [*sample, *size])
    recipe = f"configs/{options.family}_lora.yaml"
    if not (ROOT / recipe).is_file():
        return
    train = ["train.py", recipe, "--model.path", str(model)]
    data = ["--data.path", "bundled:style", "--data.resolution", side, "--train.steps", "2"]
    timed("train, 2 LoRA steps", [*train, *data, "--output", str(model) + "_lora"])


if __name__ == "__main__":
    main()
