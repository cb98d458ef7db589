"""Writes a whole model as a diffusers folder, with a LoRA merged into its weights."""

import pathlib

from flax_sd.errors import UserError
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import attach
from flax_sd.lora.tools.merge import merge
from flax_sd.run_folder.artifacts import MARK, Source
from flax_sd.weights.diffusers_folder import read_json
from flax_sd.weights.fill import DTYPES
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles
from flax_sd.weights.safetensors import TensorFile


def write_model(
    source: Source, to: str, out: pathlib.Path, strength: float, dtype: str
) -> pathlib.Path:
    """Writes the model with the LoRA merged, or the trained model; returns the path.

    W + strength · alpha / rank · up @ down is summed in float32 and rounded once.

    Args:
      to: the name of the export, written to model_index.json.
      dtype: "auto" for that of the model's UNet.

    Raises:
      UserError: the LoRA does not fit, a weight overflows, or `out` is not free.
    """
    _check_free(out)
    files = source.model_files()
    model = Model.load(files, "float32", scheduler=source.scheduler(files))
    target = _dtype_of(files) if dtype == "auto" else dtype
    if source.lora is not None:
        trained = {name: model.networks[name] for name in files.kind.adapted}
        for name, adapters in read(source.lora, trained).items():
            attach(trained[name], adapters, strength)
            merge(trained[name])
    model.save(out, dtype=target, index={f"_{MARK}": to})
    return out


def _check_free(out: pathlib.Path) -> None:
    if out.suffix in (".safetensors", ".ckpt"):
        raise UserError(f"--out {out} is the name of a file, and a model is written as a folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    index = out / "model_index.json"
    if not index.is_file() or f"_{MARK}" not in read_json(index):
        raise UserError(
            f"{out} exists and is not an earlier export: choose another --out, or delete it"
        )


def _dtype_of(files: ModelFiles) -> str:
    """Returns the dtype of the UNet."""
    file = TensorFile(files.files("unet")[0])
    name = file.dtype(next(iter(file))).name
    return name if name in DTYPES else "float32"
