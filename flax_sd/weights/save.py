"""A whole model written as the diffusers folder that `from_pretrained` reads."""

import pathlib
from collections.abc import Mapping
from typing import Any

from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights.diffusers_folder import save_component, write_json, written_aside
from flax_sd.weights.fill import state_tensors


def save_model(
    path: pathlib.Path,
    networks: Mapping[str, nnx.Module],
    tokenizer: Tokenizer,
    *,
    index: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    scheduler_config: Mapping[str, Any],
    dtype: str,
) -> None:
    """Writes the folder, whole or not at all; LoRAs inside the networks stay out of it.

    Args:
      path: a new or empty folder, or a model that is replaced.
      networks: by component.
      tokenizer: its files are written as they were read.
      index: the raw model_index.json.
      configs: component -> its raw config.json.
      scheduler_config: the raw scheduler_config.json.
      dtype: of the networks.

    Raises:
      UserError: something else is in the place, or the disk is full.
    """
    if path.suffix in (".safetensors", ".ckpt"):
        raise UserError(f"{path}: single files are not written; name a folder")
    with written_aside(path) as aside:
        for name, network in networks.items():
            # transformers' configs say the dtype, and its loader believes them.
            named = {key: dtype for key in ("dtype", "torch_dtype") if key in configs[name]}
            save_component(aside, name, state_tensors(network), {**configs[name], **named})
        tokenizer.save(aside / "tokenizer")
        write_json(aside / "scheduler" / "scheduler_config.json", scheduler_config)
        write_json(aside / "model_index.json", _present(index, configs, scheduler_config))


def _present(
    index: Mapping[str, Any], configs: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> dict[str, Any]:
    """The index, which names the parts that are there and says that the others are not."""
    absent = [None, None]
    return dict(index) | {
        "vae": ["diffusers", configs["vae"]["_class_name"]],
        **({"scheduler": ["diffusers", name]} if (name := scheduler.get("_class_name")) else {}),
        "safety_checker": absent,
        "feature_extractor": absent,
        "image_encoder": absent,
        "requires_safety_checker": False,
    }
