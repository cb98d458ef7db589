"""A whole model written as a diffusers folder, with a LoRA folded into its weights."""

import pathlib

import jax
import numpy as np
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.lora.formats.exchange import read
from flax_sd.lora.inject import attach
from flax_sd.lora.tools.merge import merge
from flax_sd.pipelines.stable_diffusion import StableDiffusion
from flax_sd.run_folder.artifacts import MARK, Source
from flax_sd.weights.diffusers_folder import component_files, read_json
from flax_sd.weights.fill import DTYPES, as_dtype, state_tensors
from flax_sd.weights.networks import find_vae, load_network, read_component_config
from flax_sd.weights.safetensors import TensorFile
from flax_sd.weights.save import save_model


def write_model(
    source: Source, to: str, out: pathlib.Path, strength: float, dtype: str
) -> pathlib.Path:
    """Writes the model with the LoRA inside, or the model that was trained; returns where.

    W + strength · alpha / rank · up @ down is summed in float32 and rounded once.

    Args:
      to: the name of the export, which is noted in model_index.json.
      dtype: "auto" for that of the model's UNet.

    Raises:
      UserError: the LoRA does not fit, a weight overflows, or something else is in the place.
    """
    _check_free(out)
    folder = source.model_folder()
    target = _dtype_of(folder, source.variant) if dtype == "auto" else dtype
    sd = StableDiffusion.load(folder, "float32", variant=source.variant)
    if source.vae is not None:
        vae = find_vae(source.vae, source.variant)
        sd.vae = load_network(vae.parent, vae.name, "float32", source.variant)
        sd.configs["vae"] = read_component_config(vae.parent, vae.name)
    networks = {"unet": sd.unet, "text_encoder": sd.text_encoders[0], "vae": sd.vae}
    if source.lora is not None:
        trained = {name: networks[name] for name in ("unet", "text_encoder")}
        for name, adapters in read(source.lora, trained).items():
            attach(networks[name], adapters, strength)
            merge(networks[name])
    for name, network in networks.items():
        _cast(network, target, name)
    save_model(
        out,
        networks,
        sd.tokenizers[0],
        index=read_json(folder / "model_index.json") | {f"_{MARK}": to},
        configs=sd.configs,
        scheduler_config=source.scheduler(folder),
        dtype=target,
    )
    return out


def _check_free(out: pathlib.Path) -> None:
    if out.suffix in (".safetensors", ".ckpt"):
        raise UserError(f"--out {out} is a file's name, and the model is written as a folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    index = out / "model_index.json"
    if not index.is_file() or f"_{MARK}" not in read_json(index):
        raise UserError(f"{out} is there and no earlier export: choose another --out, or delete it")


def _dtype_of(folder: pathlib.Path, variant: str | None) -> str:
    file = TensorFile(component_files(folder, "unet", variant)[0])
    name = file.dtype(next(iter(file))).name
    return name if name in DTYPES else "float32"


def _cast(network: nnx.Module, dtype: str, name: str) -> None:
    """Rounds a network's weights, in place.

    Raises:
      UserError: some are too large for the dtype; all are named.
    """
    target = as_dtype(dtype)
    nnx.update(network, jax.tree.map(lambda leaf: leaf.astype(target), nnx.state(network)))
    tensors = state_tensors(network)
    wrong = [key for key, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if wrong:
        lines = "\n  ".join(sorted(wrong))
        raise UserError(f"not written, for {name} has weights too large for {dtype}:\n  {lines}")
