"""The files of a run that other tools read: LoRAs and tokens at every save, or a whole model."""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from flax_sd.config import Config
from flax_sd.data import Pictures
from flax_sd.files.atomic import write_aside
from flax_sd.run_folder import layout, result_files
from flax_sd.run_folder.layout import BEST_MODEL, FINISHED, MODEL_FOLDER
from flax_sd.run_folder.result_files import trained_files
from flax_sd.training.losses import Trees
from flax_sd.training.outputs import lora_results
from flax_sd.training.setup import new_tokens
from flax_sd.training.setup.base_model import Parts
from flax_sd.weights import diffusers_folder as model_folder
from flax_sd.weights.fill import rounded, state_tensors
from flax_sd.weights.networks import read_component_config

NETWORKS = ("unet", "vae", "text_encoder")


class Outputs:
    """Writes what the run has learned; only the first of several processes does."""

    def __init__(self, config: Config, parts: Parts, pictures: Pictures):
        """Takes the pictures that the run is of: LoRA files name their tags."""
        self._config, self._parts = config, parts
        lora = lora_results.LoRAResults(config, parts, pictures)
        self._lora = lora if config.mode.adapters else None
        unconditional = not config.mode.captioned
        self._networks = ("unet",) if unconditional else NETWORKS
        self._copied = ("scheduler",) if unconditional else ("tokenizer", "scheduler")

    def save(self, step: int, params: Trees) -> None:
        """At a checkpoint: LoRA files as loras/step-N, new tokens as embeddings/step-N.

        Whole weights wait.
        """
        if jax.process_index() != 0 or self._config.fully_trained:
            return
        self._take(params)
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
        changed: Mapping[str, Any] | None = None,
        *,
        best: bool = False,
    ) -> list[pathlib.Path]:
        """At the end: the run's result; returns what was written.

        Args:
          best: it is that of the best state, which stands beside the last one's.
          changed: values of the trained component's config.json that the run has found out.
        """
        if jax.process_index() != 0:
            return []
        if not self._config.fully_trained:
            self._take(params)
            if self._lora:
                self._lora.finish(best=best)
            if self._config.tokens.names:
                self._write_tokens(self._token_results(best))
            return self._results(best)
        target = self._model(best)
        _clear_remains(target)
        self._write_model(target, params, frozen, dict(changed or {}))
        return [target]

    def missing(self, *, best: bool = False) -> list[pathlib.Path]:
        """The results, of the last or of the best state, that are not there."""
        return [path for path in self._results(best) if not path.is_file()]

    def finished_step(self) -> int | None:
        """The step that the results are of; None if they were never all written."""
        try:
            return int(json.loads((self._config.output / FINISHED).read_text())["step"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def mark_finished(self, step: int) -> None:
        """Notes, when all results are there, the step that they are of.

        Raises:
          UserError: it cannot be written.
        """
        if jax.process_index() == 0 and self.finished_step() != step:
            write_aside(self._config.output / FINISHED, json.dumps({"step": step}) + "\n")

    def _model(self, best: bool) -> pathlib.Path:
        return self._config.output / (BEST_MODEL if best else MODEL_FOLDER)

    def _results(self, best: bool) -> list[pathlib.Path]:
        """The files by which missing results are noticed."""
        if not self._config.fully_trained:
            tokens = self._token_results(best).values()
            lora = result_files.lora_files(self._config, best=best) if self._lora else ()
            return [*lora, *tokens]
        configs = [f"{name}/config.json" for name in self._networks]
        weights = [f"{name}/{stem}.safetensors" for name, stem in trained_files(self._config)]
        names = ["model_index.json", *configs, *weights]
        return [self._model(best) / name for name in names]

    def _token_results(self, best: bool) -> dict[str, pathlib.Path]:
        return result_files.token_files(self._config.tokens, self._config.output, best=best)

    def _take(self, params: Trees) -> None:
        """Puts trained leaves into the networks, from which they are written."""
        for name, leaves in params.items():
            # Host copies: the leaves themselves are donated to the next step.
            nnx.update(self._parts.networks[name], jax.tree.map(np.asarray, leaves))

    def _write_tokens(self, paths: dict[str, pathlib.Path]) -> None:
        parts = self._parts
        assert parts.tokenizer is not None, "new tokens are found by a tokenizer"
        text_encoder = parts.networks["text_encoder"]
        new_tokens.write_all(
            self._config.tokens, text_encoder, parts.tokenizer, paths, self._config.save_dtype
        )

    def _write_model(
        self, target: pathlib.Path, params: Trees, frozen: Trees, changed: dict[str, Any]
    ) -> None:
        """The whole model as a diffusers folder: trained parts new, the rest as they were."""
        parts, trained = self._parts, self._config.fully_trained
        raw = {
            name: read_component_config(parts.component_folder(name).parent, folder.name)
            for name in self._networks
            for folder in [parts.component_folder(name)]
        }
        with model_folder.written_aside(target) as aside:
            for name in self._networks:
                if name in trained:
                    state = nnx.merge_state(params[name], frozen[name])
                    dtype = self._config.save_dtype
                    kept = {**raw[name], **changed, **_in_dtype(raw[name], dtype)}
                    tensors = rounded(state_tensors(state), dtype, target / name)
                    model_folder.save_component(aside, name, tensors, kept)
                else:
                    self._copy(name, raw[name], aside)
            for name in self._copied:
                shutil.copytree(parts.folder / name, aside / name)
            scheduler = aside / "scheduler" / "scheduler_config.json"
            if parts.scheduler_config != model_folder.read_json(scheduler):
                model_folder.write_json(scheduler, parts.scheduler_config)
            index = model_folder.read_json(parts.folder / "model_index.json")
            index = _present(index, raw, parts.scheduler_config)
            model_folder.write_json(aside / "model_index.json", index)

    def _copy(self, name: str, raw: Mapping[str, Any], aside: pathlib.Path) -> None:
        """A component as it was: byte for byte, or, if it is of a variant, under plain names."""
        source, variant = self._parts.component_folder(name), self._config.model.variant
        if variant is None:
            shutil.copytree(source, aside / name, ignore=_not_for_models)
        else:
            tensors = model_folder.component_tensors(source.parent, source.name, variant)
            model_folder.save_component(aside, name, tensors, raw)


def _clear_remains(target: pathlib.Path) -> None:
    """Removes a model folder of ours out of which somebody took the index."""
    ours = {*NETWORKS, "tokenizer", "scheduler"}
    if target.is_dir() and {path.name for path in target.iterdir()} <= ours:
        shutil.rmtree(target)


def _in_dtype(raw: Mapping[str, Any], dtype: str) -> dict[str, str]:
    """transformers' configs say the dtype, and its loader believes them."""
    return {key: dtype for key in ("dtype", "torch_dtype") if key in raw}


def _present(
    index: Mapping[str, Any], raw: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> dict[str, Any]:
    """The index, which names the parts that are there and says that the others are not."""
    if name := scheduler.get("_class_name"):
        index = {**index, "scheduler": ["diffusers", name]}
    if "vae" not in raw:
        return dict(index)
    absent = [None, None]
    return dict(index) | {
        "vae": ["diffusers", raw["vae"]["_class_name"]],
        "safety_checker": absent,
        "feature_extractor": absent,
        "image_encoder": absent,
        "requires_safety_checker": False,
    }


def _not_for_models(folder: str, names: list[str]) -> set[str]:
    """Sub-folders, hidden files, model cards and pickles stay where they are."""
    return {
        name
        for name in names
        if name.startswith(".")
        or name.endswith((".md", ".bin", ".ckpt", ".pt", ".msgpack"))
        or os.path.isdir(os.path.join(folder, name))
    }
