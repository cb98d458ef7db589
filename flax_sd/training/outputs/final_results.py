"""What a run ends with: the results of its last state and, where one is kept, of its best."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_sd.config import Config
from flax_sd.data import Pictures
from flax_sd.system.progress import Progress
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.training.losses import Trees
from flax_sd.training.outputs import vae_scale
from flax_sd.training.outputs.results import Outputs
from flax_sd.training.setup.task import Objective
from flax_sd.training.step import TrainState


class Results:
    """Writes them, and says where."""

    def __init__(self, outputs: Outputs, pictures: Pictures, config: Config, progress: Progress):
        """Takes the pictures that an autoencoder's scale is measured on."""
        self._outputs, self._pictures = outputs, pictures
        self._config, self._progress = config, progress

    def write(self, learned: Trees, objective: Objective, *, best: bool = False) -> None:
        """Writes the results of what was learned.

        Args:
          best: they are those of the best state, beside the last one's.

        Raises:
          UserError: they cannot be written.
        """
        changed, frozen = {}, objective.frozen
        if self._measures_scale():
            scale = vae_scale.scaling_factor(objective, learned, frozen, self._pictures)
            changed = {"scaling_factor": round(scale, 5)}
            self._progress.stage("measured", f"scaling_factor of the latents {scale:.5f}")
        if self._config.mode.unconditional:  # what it draws is as large as what it saw
            changed = {"sample_size": self._config.data.resolution}
        for path in self._outputs.finish(learned, frozen, changed, best=best):
            self._progress.stage("written", str(path))

    def _measures_scale(self) -> bool:
        """Says whether the VAE's scaling factor is to be measured.

        That of a VAE which came with one stays: the UNet beside it was trained with it.
        """
        train, model = self._config.train, self._config.model
        return "vae" in self._config.fully_trained and (
            train.measure_scaling_factor or "vae" in model.from_scratch
        )

    def write_best(
        self, step: int, state: TrainState, checkpoints: Checkpoints, objective: Objective
    ) -> None:
        """Reads the state of the best step and writes its results; `state` gives the shapes.

        Raises:
          UserError: they cannot be written.
        """
        kept = checkpoints.restore(step, jax.tree.map(_in_main_memory, state))
        if kept is not None:
            self.write(kept.learned, objective, best=True)


def _in_main_memory(leaf: Any) -> Any:
    """A stand-in of a leaf's kind: devices that are full of one state have no room for another."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
