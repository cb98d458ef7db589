"""What there is to export: a run's folder or a LoRA file, and the model that it belongs to."""

import pathlib
import shlex
from typing import Any, Literal, NamedTuple

from flax_sd.config import Config, ModelConfig, flags
from flax_sd.errors import UserError
from flax_sd.run_folder import result_files
from flax_sd.run_folder.layout import BEST_LORA, BEST_MODEL, LORA_FILE, MODEL_FOLDER
from flax_sd.run_folder.layout import CONFIG as CONFIG_FILE
from flax_sd.run_folder.saved_config import config_of
from flax_sd.weights.model_files import ModelFiles

MARK = "flax_sd_export"  # in what was exported, so that a later export may replace it


class Source(NamedTuple):
    """What is exported.

    Attributes:
      lora: its file; None if the whole model, or nothing but new tokens, was trained.
      model: what the LoRA belongs to, or the model that was trained: a folder or hub id.
      vae: another VAE than the model's own, which the run was trained with.
      config: of the run, if it is one.
      tokens: the files of its new tokens, by name.
    """

    lora: pathlib.Path | None
    model: str | None
    revision: str | None
    variant: str | None
    vae: str | None = None
    config: Config | None = None
    tokens: dict[str, pathlib.Path] = {}

    def model_files(self) -> ModelFiles:
        """Finds the model, with the VAE that the run had; it is downloaded if need be.

        Raises:
          UserError: it is not known or not there.
        """
        if self.model is None:
            raise UserError(f"--model is wanted: which model {self.lora} belongs to")
        return ModelFiles.find(self.model, self.revision, self.variant, vae=self.vae)

    def scheduler(self, files: ModelFiles) -> dict[str, Any]:
        """Returns the model's scheduler config, as the run changed it."""
        whole = self.lora is None  # a model that was trained whole was written with the changes
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
    """Looks at what `path` is.

    Args:
      path: a run's folder, a LoRA file of a run, or any LoRA file.
      model: goes before the run's own, whose revision, variant and VAE then do not count.
      revision: goes before that of the run's model.
      variant: as revision.
      step: which state of a run's folder.

    Raises:
      UserError: it is neither, or the run is not finished.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: a run's folder or a LoRA file is wanted")
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
            raise UserError(f"--step best wants a run's folder, and {path} is a file")
        return Source(path, model, revision, variant, vae, config)
    if config is None:
        raise UserError(f"{path} is no run's folder (it has no {CONFIG_FILE}), nor a LoRA file")
    if config.mode.adapters:
        name = BEST_LORA if step == "best" else LORA_FILE
        if not (path / name).is_file():
            why = "validation.every was not set, or the run" if step == "best" else "the run"
            raise UserError(
                f"{path} holds no {name}, for {why} is not finished: finish it, or name one of the "
                f"files in {path / 'loras'}"
            )
        return Source(path / name, model, revision, variant, vae, config, tokens)
    if absent := [str(file) for file in tokens.values() if not file.is_file()]:
        raise UserError(f"{', '.join(absent)} is not there, for the run is not finished")
    if tokens:
        return Source(None, model, revision, variant, vae, config, tokens)
    trained = path / (BEST_MODEL if step == "best" else MODEL_FOLDER)
    if not (trained / "model_index.json").is_file():
        why = "validation.every was not set, or the run" if step == "best" else "the run"
        raise UserError(
            f"{path} holds no {trained.name} folder, for {why} is not finished{_way_out(path)}"
        )
    return Source(None, str(trained), None, None, config=config)


def _way_out(path: pathlib.Path) -> str:
    """How an unfinished run of a whole model comes to its result early."""
    steps = [int(p.name) for p in path.glob("checkpoints/*") if p.name.isdigit()]
    if not steps:
        return ""
    config = shlex.quote(str(path / CONFIG_FILE))
    return (
        f": {flags.typed('train')} {config} --train.steps {max(steps)} writes that "
        "of its newest checkpoint, and more steps go on from there"
    )
