"""Writes a LoRA for other tools, in another format, strength or dtype."""

import pathlib
from typing import Literal, NamedTuple

import numpy as np
from flax import nnx

from flax_sd.commands.export.losses import say_losses
from flax_sd.lora.adapter import LoRAFile
from flax_sd.lora.formats import kohya, kohya_families, peft
from flax_sd.lora.formats.base_models import foreign_model
from flax_sd.lora.formats.contents import read_contents
from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import attach
from flax_sd.lora.targets import slots
from flax_sd.lora.tools.low_rank import bake
from flax_sd.run_folder.artifacts import Source
from flax_sd.run_folder.layout import LORA_FILE, PEFT_FILE
from flax_sd.system.progress import Progress
from flax_sd.training.outputs import lora_header
from flax_sd.weights.destination import MARK, check_free, make_parents
from flax_sd.weights.family import Family
from flax_sd.weights.fill import DTYPES, as_dtype
from flax_sd.weights.safetensors import TensorFile

# Entries that `kohya.write` writes itself, and hashes of other bytes.
_REPLACED = ("ss_network_", "sshs_", MARK)


class LoRAForm(NamedTuple):
    """The format to write a LoRA in.

    Attributes:
      strength: factor of the LoRA.
      dtype: "auto" for the source's dtype.
      bake: the rank of the closest plain LoRA, or None for the LoRA as it is.
    """

    to: Literal["kohya", "peft"]
    strength: float
    dtype: str
    bake: int | None = None


def write_lora(
    source: Source, form: LoRAForm, out: pathlib.Path, progress: Progress
) -> pathlib.Path:
    """Writes the LoRA file and returns its path.

    Args:
      out: a file ending in .safetensors, or a folder for a file of the usual name.
      progress: reports what baking loses.

    Raises:
      UserError: the LoRA does not fit its model, or `out` is not free.
    """
    assert source.lora is not None
    to, path = form.to, out
    if out.suffix != ".safetensors":
        path = out / (LORA_FILE if to == "kohya" else PEFT_FILE)
    check_free(path, "--out")
    file = TensorFile(source.lora)
    target = _dtype_of(file) if form.dtype == "auto" else as_dtype(form.dtype)
    model = _model(source, file)
    lora = _scaled(read(file.path, model and model.networks), form.strength)
    if form.bake is not None:
        lora, lost = _baked(source, lora, form.bake)
        progress.stage("baked", f"into rank {form.bake}, which loses {lost:.1%} of the change")
    make_parents(path)
    if to == "kohya":
        metadata = _model_metadata(source, file) | lora_header.title(path.stem) | {MARK: to}
        if source.config is not None:
            metadata |= lora_header.said_of_run(source.config)
        naming = model.naming if model else kohya_families.DIFFUSERS_NAMING
        kohya.write(path, lora, metadata, dtype=target, naming=naming)
    else:
        peft.write(path, lora, {MARK: to}, dtype=target)
    written = read_contents(TensorFile(path), model.layers if model else ())
    say_losses(written, model.family if model else written.family, progress)
    return path


def _dtype_of(file: TensorFile) -> np.dtype:
    """Returns the dtype of the LoRA's matrices; float32 if networks cannot have it."""
    name = next(file.dtype(key).name for key in sorted(file) if not key.endswith(".alpha"))
    return as_dtype(name if name in DTYPES else "float32")


def _scaled(lora: LoRAFile, strength: float) -> LoRAFile:
    return {
        component: {path: one._replace(alpha=one.alpha * strength) for path, one in own.items()}
        for component, own in lora.items()
    }


class _Model(NamedTuple):
    """What names and shapes depend on in the LoRA's model: its networks, without their weights."""

    family: Family
    networks: dict[str, nnx.Module]

    @property
    def layers(self) -> list[LayerRef]:
        return [LayerRef(name, path) for name, own in self.networks.items() for path in slots(own)]

    @property
    def naming(self) -> kohya_families.Naming:
        return kohya_families.naming(self.family, slots(self.networks["unet"]))


def _model(source: Source, file: TensorFile) -> _Model | None:
    """Returns the model; None for a run's LoRA of Stable Diffusion 1.x or 2.x, which does without.

    Raises:
      UserError: it is not known or not there.
    """
    if source.config and not foreign_model(file):
        contents = read_contents(file)
        if contents.family != "sdxl" and not contents.unknown:
            return None
    files = source.model_files()
    return _Model(files.family, {name: files.abstract(name) for name in files.kind.adapted})


def _baked(source: Source, lora: LoRAFile, rank: int) -> tuple[LoRAFile, float]:
    """Returns the plain LoRA of that rank, and the largest share that it loses in a network."""
    files, baked, lost = source.model_files(), {}, 0.0
    for component, adapters in lora.items():
        network = files.load(component, "float32")
        attach(network, adapters, 1.0)
        baked[component], own = bake(network, rank)
        lost = max(lost, own)
    return baked, lost


def _model_metadata(source: Source, file: TensorFile) -> dict[str, str]:
    """Returns the LoRA header's entries on base and training, or else its model's family."""
    if "ss_base_model_version" in file.metadata:
        kept = file.metadata.items()
        return {key: value for key, value in kept if not key.startswith(_REPLACED)}
    files = source.model_files()
    return kohya_families.metadata(files.family, source.scheduler(files))
