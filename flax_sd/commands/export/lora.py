"""A LoRA written for other tools, in another format, strength or dtype."""

import pathlib
from typing import Literal, NamedTuple

import numpy as np

from flax_sd.errors import UserError
from flax_sd.lora.adapter import LoRAFile
from flax_sd.lora.formats import kohya, peft
from flax_sd.lora.formats.base_models import foreign_model
from flax_sd.lora.formats.contents import read_contents
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import attach
from flax_sd.lora.tools.low_rank import bake
from flax_sd.run_folder.artifacts import MARK, Source
from flax_sd.run_folder.layout import LORA_FILE, PEFT_FILE
from flax_sd.system.progress import Progress
from flax_sd.training.outputs import lora_header
from flax_sd.weights.fill import DTYPES, as_dtype
from flax_sd.weights.safetensors import TensorFile

# What `kohya.write` says itself, and hashes of other bytes.
_REPLACED = ("ss_network_", "sshs_", MARK)


class LoRAForm(NamedTuple):
    """What a LoRA is written as.

    Attributes:
      strength: multiplied into it.
      dtype: "auto" for that of the source.
      bake: the rank of the plain LoRA that comes nearest, or None for the LoRA as it is.
    """

    to: Literal["kohya", "peft"]
    strength: float
    dtype: str
    bake: int | None = None


def write_lora(
    source: Source, form: LoRAForm, out: pathlib.Path, progress: Progress
) -> pathlib.Path:
    """Writes the LoRA file and returns where.

    Args:
      out: a file ending in .safetensors, or a folder for a file of the usual name.
      progress: is told what baking loses.

    Raises:
      UserError: the LoRA does not fit its model, or something else is in the place.
    """
    assert source.lora is not None
    to, path = form.to, out
    if out.suffix != ".safetensors":
        path = out / (LORA_FILE if to == "kohya" else PEFT_FILE)
    check_free(path)
    file = TensorFile(source.lora)
    target = _dtype_of(file) if form.dtype == "auto" else as_dtype(form.dtype)
    lora = _scaled(_adapters(source, file), form.strength)
    if form.bake is not None:
        lora, lost = _baked(source, lora, form.bake)
        progress.stage("baked", f"into rank {form.bake}, without {lost:.1%} of what it changes")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be made: {error.strerror}") from error
    if to == "kohya":
        metadata = _model_metadata(source, file) | lora_header.title(path.stem) | {MARK: to}
        if source.config is not None:
            metadata |= lora_header.said_of_run(source.config)
        kohya.write(path, lora, metadata, dtype=target)
    else:
        peft.write(path, lora, {MARK: to}, dtype=target)
    return path


def check_free(path: pathlib.Path) -> None:
    """Raises UserError if something is there that is no earlier export."""
    if not path.exists():
        return
    try:
        exported = MARK in TensorFile(path).metadata
    except UserError:
        exported = False
    if not exported:
        raise UserError(
            f"{path} is there and no earlier export: choose another --out, or delete it"
        )


def _dtype_of(file: TensorFile) -> np.dtype:
    """What the LoRA's matrices are in; float32 if it is nothing that networks are held in."""
    name = next(file.dtype(key).name for key in sorted(file) if not key.endswith(".alpha"))
    return as_dtype(name if name in DTYPES else "float32")


def _scaled(lora: LoRAFile, strength: float) -> LoRAFile:
    return {
        component: {path: one._replace(alpha=one.alpha * strength) for path, one in own.items()}
        for component, own in lora.items()
    }


def _adapters(source: Source, file: TensorFile) -> LoRAFile:
    """The LoRA; that of a run without its model, if all layers are those of a Stable Diffusion."""
    if source.config and not foreign_model(file) and not read_contents(file).unknown:
        return read(file.path)
    files = source.model_files()
    return read(file.path, {name: files.abstract(name) for name in ("unet", "text_encoder")})


def _baked(source: Source, lora: LoRAFile, rank: int) -> tuple[LoRAFile, float]:
    """The plain LoRA of that rank, and the largest share that is missing in a network."""
    files, baked, lost = source.model_files(), {}, 0.0
    for component, adapters in lora.items():
        network = files.load(component, "float32")
        attach(network, adapters, 1.0)
        baked[component], own = bake(network, rank)
        lost = max(lost, own)
    return baked, lost


def _model_metadata(source: Source, file: TensorFile) -> dict[str, str]:
    """What the LoRA's own header says of its base and training, or else its model's family."""
    if "ss_base_model_version" in file.metadata:
        kept = file.metadata.items()
        return {key: value for key, value in kept if not key.startswith(_REPLACED)}
    files = source.model_files()
    return kohya.metadata(files.family, source.scheduler(files).get("prediction_type", "epsilon"))
