"""A run's numbers and pictures: metrics.jsonl, and TensorBoard and Weights & Biases if wanted."""

import importlib
import os
import pathlib
import secrets
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, SupportsFloat

import jax
import numpy as np
import yaml
from jaxtyping import UInt8

from flax_sd.errors import UserError
from flax_sd.run_folder.layout import METRICS
from flax_sd.run_folder.step_lines import StepLines


class Trackers:
    """Everything that a run logs to; only the first of several processes writes."""

    def __init__(
        self,
        output: pathlib.Path,
        *,
        tensorboard: bool = False,
        wandb: bool = False,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        resumed_at: int | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens the trackers and drops what was logged past the checkpoint.

        Args:
          output: the run's folder, which exists.
          tensorboard: write TensorBoard files to OUTPUT/tensorboard.
          wandb: log to Weights & Biases (WANDB_MODE=offline writes to OUTPUT/wandb alone).
          config: the run's options.
          environment: what it is made with and on.
          resumed_at: the checkpoint's step; None for a run from its start, which drops all lines.
          changed: called after each thing that was logged.

        Raises:
          UserError: a tracker's package is not installed.
        """
        board = _import("tensorboardX", "tensorboard") if tensorboard else None
        wandb_module = _import("wandb", "wandb") if wandb else None
        self._metrics = self._board = self._wandb = None
        self._changed = changed
        if jax.process_index() != 0:
            return
        self._metrics = StepLines(output / METRICS)
        self._metrics.truncate_after(-1 if resumed_at is None else resumed_at)
        if board is not None:
            self._board = board.SummaryWriter(
                str(output / "tensorboard"), purge_step=(resumed_at or 0) + 1
            )
            self._words(resumed_at or 0, {"config": config, "environment": environment})
        if wandb_module is not None:
            self._image_of = wandb_module.Image
            self._wandb = wandb_module.init(
                project=os.environ.get("WANDB_PROJECT", "flax_sd"),
                name=output.name,
                dir=str(output),
                id=_run_id(output),
                resume="allow",
                config={**(config or {}), "environment": dict(environment or {})},
            )

    def _words(self, step: int, named: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Shows mappings in TensorBoard as YAML; Markdown leaves indented lines as they are."""
        assert self._board is not None
        for name, values in named.items():
            words = yaml.safe_dump(dict(values or {}), sort_keys=False, allow_unicode=True)
            self._board.add_text(name, textwrap.indent(words, "    "), step)

    def log(
        self, step: int, values: Mapping[str, SupportsFloat], pictures: Sequence[str] = ()
    ) -> None:
        """Writes the numbers of a step, and in metrics.jsonl the names of pictures.

        Raises:
          UserError: metrics.jsonl cannot be written.
        """
        if self._metrics is not None:
            named = {"pictures": pictures} if pictures else {}
            self._metrics.append({"step": step, **values, **named})
        self.show(step, values)

    def show(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Writes numbers of a step that are in no line of metrics.jsonl."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, float(value), step)
        if self._wandb is not None:
            self._wandb.log({name: float(value) for name, value in values.items()}, step=step)
        self._changed()

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Shows a picture in the trackers that can."""
        if self._board is not None:
            self._board.add_image(name, picture, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.log({name: self._image_of(picture)}, step=step)
        self._changed()

    def close(self) -> None:
        """Writes out what is held back."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _import(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"log.{extra} needs the package {package}, which is not installed; "
            f"`pip install 'flax_sd[{extra}]'` brings it"
        ) from error


def _run_id(output: pathlib.Path) -> str:
    """The id by which Weights & Biases knows the run again when it resumes."""
    path = output / "wandb" / "flax_sd_run_id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text()
