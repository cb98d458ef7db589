"""Random LoRAs of a model's folder, and runs that could have made them."""

import pathlib
from typing import Any

import numpy as np
import yaml

from flax_sd.lora.adapter import Adapter, LoRAFile
from flax_sd.lora.formats import kohya, peft
from flax_sd.lora.targets import match, slots
from flax_sd.weights.model_files import ModelFiles


def random_lora(model: pathlib.Path, rank: int = 3, alpha: float = 2.0) -> LoRAFile:
    """Both halves random, in the attention of UNet and text encoder."""
    rng, lora = np.random.default_rng(rank), {}
    for component in ("unet", "text_encoder"):
        network = ModelFiles(model).abstract(component)
        for path in match(network, "attention"):
            base = slots(network)[path].base
            down = rng.normal(size=(rank, base.in_features)) / base.in_features**0.5
            up = rng.normal(size=(base.out_features, rank))
            adapter = Adapter(np.float32(down), np.float32(up), alpha)
            lora.setdefault(component, {})[path] = adapter
    return lora


def write_run(folder: pathlib.Path, lora: LoRAFile, base: pathlib.Path | str, /, **config: Any):
    """The files of a finished run that trained the LoRA on `base`."""
    folder.mkdir(parents=True)
    config = {"output": str(folder), **config}
    config["model"] = {"path": str(base), **config.get("model", {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    kohya.write(folder / "lora.safetensors", lora, kohya.metadata("sd1", "epsilon"))
    peft.write(folder / "pytorch_lora_weights.safetensors", lora)
