"""Writes a whole model as a diffusers folder or a single file, with a LoRA merged into it."""

import pathlib

from flax_sd.errors import UserError
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import attach
from flax_sd.lora.tools.merge import merge
from flax_sd.run_folder.artifacts import Source
from flax_sd.weights.destination import SINGLE, check_free, check_name, make_parents
from flax_sd.weights.fill import DTYPES
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles


def write_model(
    source: Source, to: str, out: pathlib.Path, strength: float, dtype: str
) -> pathlib.Path:
    """Writes the model with the LoRA merged, or the trained model; returns the path.

    W + strength · alpha / rank · up @ down is summed in float32 and rounded once.

    Args:
      to: the name of the export, which tells a folder from a file, and is written into it.
      dtype: "auto" for that of the model's UNet.

    Raises:
      UserError: the LoRA does not fit, a weight overflows, or `out` is not free.
    """
    _check_name(out, to)
    check_free(out, "--out")
    files = source.model_files()
    model = Model.load(files, "float32", scheduler=source.scheduler(files))
    target = _dtype_of(files) if dtype == "auto" else dtype
    if source.lora is not None:
        trained = {name: model.networks[name] for name in files.kind.adapted}
        for name, adapters in read(source.lora, trained).items():
            attach(trained[name], adapters, strength)
            merge(trained[name])
    make_parents(out)
    model.save(out, dtype=target, export=to)
    return out


def _check_name(out: pathlib.Path, to: str) -> None:
    check_name(out)
    single = to == "single-file"
    if single and out.suffix != SINGLE:
        raise UserError(f"--out {out} should end in {SINGLE}: --to single-file writes a file")
    if not single and out.suffix == SINGLE:
        raise UserError(
            f"--out {out} is the name of a file, and --to {to} writes a folder: --to single-file "
            "writes a model as a file"
        )


def _dtype_of(files: ModelFiles) -> str:
    """Returns the dtype of the UNet."""
    name = next(iter(files.tensors("unet").values())).dtype.name
    return name if name in DTYPES else "float32"
