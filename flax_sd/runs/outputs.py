"""The files of a run that other tools read: LoRA files at every save, or a diffusers folder."""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from flax_sd.components import read_component_config
from flax_sd.config import Config
from flax_sd.family import family_of
from flax_sd.lora.inject import extract
from flax_sd.lora.write import kohya_metadata, write_kohya, write_peft
from flax_sd.losses import Trees
from flax_sd.runs.parts import Parts, trained_whole
from flax_sd.weights import folder as model_folder
from flax_sd.weights.fill import state_tensors

LORA_FILE = "lora.safetensors"  # kohya names, the format that every user interface loads
PEFT_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own
MODEL_FOLDER = "model"


class Outputs:
    """Writes what the run has learned; only the first of several processes does."""

    def __init__(self, config: Config, parts: Parts):
        self._config, self._parts = config, parts
        self._lora = config.train.mode == "lora"

    def save(self, step: int, params: Trees) -> None:
        """At a checkpoint: the pair of LoRA files as loras/step-N; whole weights wait."""
        if self._lora and jax.process_index() == 0:
            folder, name = self._config.output / "loras", f"step-{step:06d}"
            folder.mkdir(exist_ok=True)
            self._write_lora(
                params, folder / f"{name}.safetensors", folder / f"{name}_peft.safetensors"
            )

    def finish(
        self, params: Trees, frozen: Trees, changed: Mapping[str, Any] | None = None
    ) -> list[pathlib.Path]:
        """At the end: the run's result; returns what was written.

        Args:
          changed: values of the trained component's config.json that the run has found out.
        """
        if jax.process_index() != 0:
            return []
        paths = self._results()
        if self._lora:
            self._write_lora(params, *paths)
        else:
            self._write_model(paths[0].parent, params, frozen, dict(changed or {}))
        return paths

    def missing(self) -> list[pathlib.Path]:
        """The results that are not there."""
        return [path for path in self._results() if not path.is_file()]

    def _results(self) -> list[pathlib.Path]:
        names = [LORA_FILE, PEFT_FILE] if self._lora else [f"{MODEL_FOLDER}/model_index.json"]
        return [self._config.output / name for name in names]

    def _write_lora(self, params: Trees, kohya: pathlib.Path, peft: pathlib.Path) -> None:
        for name, leaves in params.items():
            nnx.update(self._parts.networks[name], leaves)
        adapters = {name: extract(self._parts.networks[name]) for name in params}
        text_config = read_component_config(self._parts.folder, "text_encoder")
        prediction = self._parts.scheduler_config.get("prediction_type", "epsilon")
        write_kohya(kohya, adapters, kohya_metadata(family_of(text_config), prediction))
        write_peft(peft, adapters)

    def _write_model(
        self, target: pathlib.Path, params: Trees, frozen: Trees, changed: dict[str, Any]
    ) -> None:
        """The whole model as a diffusers folder: trained parts new, the rest as they were."""
        source = self._parts.folder
        trained = trained_whole(self._config)
        with model_folder.written_aside(target) as aside:
            shutil.copytree(source, aside, dirs_exist_ok=True, ignore=_not_for_models)
            for name in trained:
                shutil.rmtree(aside / name, ignore_errors=True)
                raw = read_component_config(source, name) | changed
                state = nnx.merge_state(params[name], frozen[name])
                model_folder.save_component(aside, name, state_tensors(state), raw)


def _not_for_models(folder: str, names: list[str]) -> set[str]:
    """Hidden files, model cards and pickles stay where they are."""
    return {n for n in names if n.startswith(".") or n.endswith((".md", ".bin", ".ckpt", ".pt"))}
