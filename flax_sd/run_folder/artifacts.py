"""The artifacts of a run: its LoRA, tokens or model, and the model that a LoRA belongs to."""

import pathlib
import shlex
from typing import Literal, NamedTuple

from flax_sd.config import Config, ModelConfig, flags
from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.run_folder import result_files
from flax_sd.run_folder.layout import BEST_LORA, BEST_MODEL, LORA_FILE, MODEL_FOLDER
from flax_sd.run_folder.layout import CONFIG as CONFIG_FILE
from flax_sd.run_folder.saved_config import config_of
from flax_sd.weights.model_files import ModelFiles

_WHY_MISSING = {
    "last": "the run is not finished",
    "best": "validation.every was not set, or the run is not finished",
}


class Source(NamedTuple):
    """The source of an export.

    Attributes:
      lora: the LoRA file; None if the run trained a whole model, or new tokens only.
      model: the base model of the LoRA, or the trained model: a folder or hub id.
      vae: the VAE of the run, if it is not the model's own.
      config: the config of the run, if there is one.
      tokens: the files of the new tokens, by name.
    """

    lora: pathlib.Path | None
    model: str | None
    revision: str | None
    variant: str | None
    vae: str | None = None
    config: Config | None = None
    tokens: dict[str, pathlib.Path] = {}

    def model_files(self) -> ModelFiles:
        """Finds the model, with the VAE of the run; downloads it if needed.

        Raises:
          UserError: it is not known or not there.
        """
        if self.model is None:
            raise UserError(f"{self.lora} does not tell its base model: pass it as --model")
        return ModelFiles.find(self.model, self.revision, self.variant, vae=self.vae)

    def scheduler(self, files: ModelFiles) -> JsonObject:
        """Returns the model's scheduler config, with the changes of the run."""
        whole = self.lora is None  # a trained model was written with the changes
        changes = ModelConfig() if whole or self.config is None else self.config.model
        return files.trained_scheduler(changes)


def find_source(
    path: pathlib.Path,
    model: str | None,
    revision: str | None,
    variant: str | None,
    *,
    step: Literal["last", "best"] = "last",
) -> Source:
    """Finds the artifacts at `path`.

    Args:
      path: a run's folder, a LoRA file of a run, or any LoRA file.
      model: replaces the run's model, its revision, variant and VAE.
      revision: replaces the revision of the run's model.
      variant: replaces the variant of the run's model.
      step: the state of a run's folder to take.

    Raises:
      UserError: it is neither, or the run is not finished.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: name a run's folder or a LoRA file")
    config, vae = config_of(path), None
    if model is None and config is not None:
        own = config.model
        model, vae = own.path, own.vae
        revision, variant = revision or own.revision, variant or own.variant
    tokens = (
        {} if config is None else result_files.token_files(config.tokens, path, best=step == "best")
    )
    if path.is_file():
        if step == "best":
            raise UserError(f"--step best needs a run's folder, and {path} is a file")
        return Source(path, model, revision, variant, vae, config)
    if config is None:
        raise UserError(
            f"{path} is neither a run's folder (it has no {CONFIG_FILE}) nor a LoRA file"
        )
    if config.mode.adapters:
        name = BEST_LORA if step == "best" else LORA_FILE
        if not (path / name).is_file():
            raise UserError(
                f"{path} has no {name}: {_WHY_MISSING[step]}; finish it, or name one of the "
                f"files in {path / 'loras'}"
            )
        return Source(path / name, model, revision, variant, vae, config, tokens)
    if absent := [str(file) for file in tokens.values() if not file.is_file()]:
        raise UserError(f"{', '.join(absent)} is missing: the run is not finished")
    if tokens:
        return Source(None, model, revision, variant, vae, config, tokens)
    trained = path / (BEST_MODEL if step == "best" else MODEL_FOLDER)
    if not (trained / "model_index.json").is_file():
        raise UserError(
            f"{path} has no folder {trained.name}: {_WHY_MISSING[step]}{_early_result(path)}"
        )
    return Source(None, str(trained), None, None, config=config)


def _early_result(path: pathlib.Path) -> str:
    """Returns the end of a message: the command that writes the model of an unfinished run."""
    steps = [int(p.name) for p in path.glob("checkpoints/*") if p.name.isdigit()]
    if not steps:
        return ""
    config = shlex.quote(str(path / CONFIG_FILE))
    return (
        f"; {flags.typed('train')} {config} --train.steps {max(steps)} writes that "
        "of its newest checkpoint, and with more steps the run continues"
    )
