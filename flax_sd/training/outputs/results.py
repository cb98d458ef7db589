"""The results of a run for other tools: LoRAs and tokens at every save, or a whole model."""

import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from flax import nnx

from flax_sd.config import Config
from flax_sd.data import Images
from flax_sd.files.atomic import write_atomically
from flax_sd.files.json_values import JsonObject
from flax_sd.run_folder import layout, result_files
from flax_sd.run_folder.layout import BEST_MODEL, FINISHED, MODEL_FOLDER
from flax_sd.run_folder.result_files import trained_files
from flax_sd.training.losses import Trees
from flax_sd.training.outputs import lora_results
from flax_sd.training.setup import new_tokens
from flax_sd.weights.family import ModelKind
from flax_sd.weights.model import Model


class Outputs:
    """Writes the trained parameters; only the first of several processes does."""

    def __init__(self, config: Config, model: Model, images: Images):
        """Takes the images of the run: LoRA files list their tags."""
        self._config, self._model = config, model
        lora = lora_results.LoRAResults(config, model, images)
        self._lora = lora if config.mode.adapters else None

    def save(self, step: int, params: Trees) -> None:
        """Writes LoRA files as loras/step-N, new tokens as embeddings/step-N.

        Fully trained components are written at the end only.
        """
        if jax.process_index() != 0 or self._config.fully_trained:
            return
        self._load(params)
        name = f"step-{step:06d}"
        if self._lora:
            self._lora.save(name)
        if self._config.tokens.names:
            folder = self._config.output / layout.EMBEDDINGS_FOLDER
            folder.mkdir(exist_ok=True)
            self._write_tokens(result_files.token_paths(self._config.tokens, folder, name))

    def finish(
        self,
        params: Trees,
        frozen: Trees,
        changed: JsonObject | None = None,
        *,
        best: bool = False,
    ) -> list[pathlib.Path]:
        """Writes the results at the end of a run; returns their paths.

        Args:
          best: they are those of the best state, written beside those of the last one.
          changed: new values for the trained component's config.json.
        """
        if jax.process_index() != 0:
            return []
        if not self._config.fully_trained:
            self._load(params)
            if self._lora:
                self._lora.finish(best=best)
            if self._config.tokens.names:
                self._write_tokens(self._token_results(best))
            return self._results(best)
        target = self._folder(best)
        _clear_remains(target, self._model.files.kind)
        trained = {name: nnx.merge_state(params[name], frozen[name]) for name in params}
        self._model.save(target, trained, dtype=self._config.save_dtype, changed=changed)
        return [target]

    def missing(self, *, best: bool = False) -> list[pathlib.Path]:
        """Returns the results, of the last or of the best state, that are missing."""
        return [path for path in self._results(best) if not path.is_file()]

    def finished_step(self) -> int | None:
        """Returns the step of the results; None if they were never all written."""
        try:
            return int(json.loads((self._config.output / FINISHED).read_text())["step"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def mark_finished(self, step: int) -> None:
        """Notes the step of the results when all are written.

        Raises:
          UserError: it cannot be written.
        """
        if jax.process_index() == 0 and self.finished_step() != step:
            write_atomically(self._config.output / FINISHED, json.dumps({"step": step}) + "\n")

    def _folder(self, best: bool) -> pathlib.Path:
        return self._config.output / (BEST_MODEL if best else MODEL_FOLDER)

    def _results(self, best: bool) -> list[pathlib.Path]:
        """Returns the files whose absence means that a result is missing."""
        if not self._config.fully_trained:
            tokens = self._token_results(best).values()
            lora = result_files.lora_files(self._config, best=best) if self._lora else ()
            return [*lora, *tokens]
        configs = [f"{name}/config.json" for name in self._model.files.kind.networks]
        weights = [f"{name}/{stem}.safetensors" for name, stem in trained_files(self._config)]
        names = ["model_index.json", *configs, *weights]
        return [self._folder(best) / name for name in names]

    def _token_results(self, best: bool) -> dict[str, pathlib.Path]:
        return result_files.token_files(self._config.tokens, self._config.output, best=best)

    def _load(self, params: Trees) -> None:
        """Copies trained leaves into the networks, from which they are written."""
        for name, leaves in params.items():
            # Host copies: the next step reuses the memory of the leaves.
            nnx.update(self._model.networks[name], jax.tree.map(np.asarray, leaves))

    def _write_tokens(self, paths: dict[str, pathlib.Path]) -> None:
        model, names = self._model, self._model.files.kind.text_encoders
        encoders: dict[str, Any] = {name: model.networks[name] for name in names}
        new_tokens.write_all(
            self._config.tokens, encoders, model.tokenizer, paths, self._config.save_dtype
        )


def _clear_remains(target: pathlib.Path, kind: ModelKind) -> None:
    """Deletes a partial model folder (one without model_index.json)."""
    ours = {*kind.networks, *kind.tokenizers, "scheduler"}
    if target.is_dir() and {path.name for path in target.iterdir()} <= ours:
        shutil.rmtree(target)
