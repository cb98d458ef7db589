"""Random LoRAs of a model's folder, and runs that could have made them."""

import pathlib
from typing import Any

import numpy as np
import yaml

from flax_sd.lora.adapter import Adapter, LoRAFile
from flax_sd.lora.formats import kohya, kohya_families, peft
from flax_sd.lora.targets import match, slots
from flax_sd.weights.family import Family
from flax_sd.weights.model_files import ModelFiles


def random_lora(
    model: pathlib.Path, rank: int = 3, alpha: float = 2.0, targets: str = "attention"
) -> LoRAFile:
    """Both halves random, in the UNet and all text encoders."""
    rng, lora, files = np.random.default_rng(rank), {}, ModelFiles(model)
    for component in files.kind.adapted:
        network = files.abstract(component)
        for path in match(network, targets):
            *window, c_in, c_out = slots(network)[path].base.kernel.shape
            down = rng.normal(size=(rank, c_in, *window)) / np.prod([c_in, *window]) ** 0.5
            up = rng.normal(size=(c_out, rank, *(1 for _ in window)))
            adapter = Adapter(np.float32(down), np.float32(up), alpha)
            lora.setdefault(component, {})[path] = adapter
    return lora


def write_run(
    folder: pathlib.Path,
    lora: LoRAFile,
    base: pathlib.Path | str,
    /,
    *,
    family: Family = "sd1",
    **config: Any,
):
    """The files of a finished run that trained the LoRA on `base`."""
    folder.mkdir(parents=True)
    config = {"output": str(folder), **config}
    config["model"] = {"path": str(base), **config.get("model", {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    kohya.write(folder / "lora.safetensors", lora, kohya_families.metadata(family, {}))
    peft.write(folder / "pytorch_lora_weights.safetensors", lora)
