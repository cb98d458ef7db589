"""Loads, samples and trains at the real sizes of Stable Diffusion 1.5 and 2.1, with random weights.

python -m benchmarks.common.real_size sd15|sd21 [--folder DIR] [--resolution 512]

Writes a diffusers folder of the family's real sizes (4.3 or 5.2 GB), then runs the product's own
commands on it: two DDIM steps of one image, and two LoRA steps. Prints seconds and peak memory.
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
PREDICTION = {"sd15": "epsilon", "sd21": "v_prediction"}


def write_folder(family: str, target: pathlib.Path) -> int:
    """Writes the model; returns its number of parameters."""
    count = 0
    with model_folder.written_aside(target) as aside:
        write_configs(family, aside)
        for number, (name, raw) in enumerate(FAMILIES[family].items()):
            network = networks.random_network(raw, name, jax.random.key(number), "float32")
            tensors = {key: not_zero(value) for key, value in state_tensors(network).items()}
            model_folder.save_component(aside, name, tensors, raw)
            count += sum(tensor.size for tensor in tensors.values())
    return count


def write_configs(family: str, target: pathlib.Path) -> None:
    """Writes the model without its weights."""
    shutil.copytree(BUNDLED / "tokenizer", target / "tokenizer")
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
    size = ["--width", side, "--height", side, "--out", str(model) + "_images"]
    timed("sample, 2 steps", [*sample, *size])
    train = ["train.py", f"configs/{options.family}_lora.yaml", "--model.path", str(model)]
    data = ["--data.path", "bundled:style", "--data.resolution", side, "--train.steps", "2"]
    timed("train, 2 LoRA steps", [*train, *data, "--output", str(model) + "_lora"])


if __name__ == "__main__":
    main()
