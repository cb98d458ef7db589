"""Logs of values and images: metrics.jsonl, and optionally TensorBoard and Weights & Biases."""

import importlib
import os
import pathlib
import secrets
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import SupportsFloat

import jax
import numpy as np
import yaml
from jaxtyping import UInt8

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.run_folder.layout import METRICS
from flax_sd.run_folder.step_lines import StepLines


class Trackers:
    """All logs of a run; only the first of several processes writes."""

    def __init__(
        self,
        output: pathlib.Path,
        *,
        tensorboard: bool = False,
        wandb: bool = False,
        config: JsonObject | None = None,
        environment: JsonObject | None = None,
        resumed_at: int | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens the logs and drops what was logged after the checkpoint.

        Args:
          output: the run's folder, which exists.
          tensorboard: write TensorBoard files to OUTPUT/tensorboard.
          wandb: log to Weights & Biases (WANDB_MODE=offline writes to OUTPUT/wandb alone).
          config: the run's options.
          environment: versions and devices, as environment.json has them.
          resumed_at: the checkpoint's step; None for a new run, which drops all lines.
          changed: called after each entry.

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

    def _words(self, step: int, named: Mapping[str, JsonObject | None]) -> None:
        """Writes mappings to TensorBoard as YAML, indented, so that Markdown leaves it as it is."""
        assert self._board is not None
        for name, values in named.items():
            words = yaml.safe_dump(dict(values or {}), sort_keys=False, allow_unicode=True)
            self._board.add_text(name, textwrap.indent(words, "    "), step)

    def log(
        self, step: int, values: Mapping[str, SupportsFloat], images: Sequence[str] = ()
    ) -> None:
        """Writes the values of a step, and in metrics.jsonl the names of images.

        Raises:
          UserError: metrics.jsonl cannot be written.
        """
        if self._metrics is not None:
            named = {"pictures": images} if images else {}
            self._metrics.append({"step": step, **values, **named})
        self.show(step, values)

    def show(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Writes values of a step to all logs but metrics.jsonl."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, float(value), step)
        if self._wandb is not None:
            self._wandb.log({name: float(value) for name, value in values.items()}, step=step)
        self._changed()

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes an image to the logs that can hold one."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.log({name: self._image_of(image)}, step=step)
        self._changed()

    def close(self) -> None:
        """Writes what is still buffered."""
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
            f"install it with `pip install 'flax_sd[{extra}]'`"
        ) from error


def _run_id(output: pathlib.Path) -> str:
    """Returns the run's id in Weights & Biases, the same when it resumes."""
    path = output / "wandb" / "flax_sd_run_id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text()
