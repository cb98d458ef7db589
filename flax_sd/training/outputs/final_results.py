"""The results of a finished run: of its last state and, if it keeps one, of its best."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_sd.config import Config
from flax_sd.data import Images
from flax_sd.system.progress import Progress
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.training.losses import Trees
from flax_sd.training.outputs import vae_scale
from flax_sd.training.outputs.results import Outputs
from flax_sd.training.setup.task import TrainTask
from flax_sd.training.step import TrainState


class Results:
    """Writes results, and reports their paths."""

    def __init__(self, outputs: Outputs, images: Images, config: Config, progress: Progress):
        """Takes the images that determine an autoencoder's scaling factor."""
        self._outputs, self._images = outputs, images
        self._config, self._progress = config, progress

    def write(self, learned: Trees, task: TrainTask, *, best: bool = False) -> None:
        """Writes the results of trained parameters.

        Args:
          best: they are those of the best state, written beside those of the last one.

        Raises:
          UserError: they cannot be written.
        """
        changed, frozen = {}, task.frozen
        if self._measures_scale():
            scale = vae_scale.scaling_factor(task, learned, frozen, self._images)
            changed = {"scaling_factor": round(scale, 5)}
            self._progress.stage("measured", f"scaling_factor of the latents {scale:.5f}")
        if (
            self._config.mode.unconditional
        ):  # it generates images of the size that it was trained on
            changed = {"sample_size": self._config.data.resolution}
        for path in self._outputs.finish(learned, frozen, changed, best=best):
            self._progress.stage("written", str(path))

    def _measures_scale(self) -> bool:
        """Tells if the VAE's scaling factor is to be measured.

        By default a pretrained VAE keeps its factor, since its UNet was trained with it.
        """
        train, model = self._config.train, self._config.model
        return "vae" in self._config.fully_trained and (
            train.measure_scaling_factor or "vae" in model.from_scratch
        )

    def write_best(
        self, step: int, state: TrainState, checkpoints: Checkpoints, task: TrainTask
    ) -> None:
        """Reads the state of the best step and writes its results; `state` gives the shapes.

        Raises:
          UserError: they cannot be written.
        """
        restored = checkpoints.restore(step, jax.tree.map(_in_main_memory, state))
        if restored is not None:
            self.write(restored.learned, task, best=True)


def _in_main_memory(leaf: Any) -> Any:
    """Returns a host array of a leaf's shape: a device may not have room for two states."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
