"""Finds a base model whose UNet predicts something else than its scheduler's config says.

An epsilon model that is trained as v-prediction, or the other way round, learns for hours before
its pictures show that nothing fits. One call of the UNet tells the two apart: where there is almost
only noise, a network that predicts noise finds it, and one that predicts velocity finds the image.
"""

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.models.vae import Moments
from flax_sd.system import sharding
from flax_sd.system.program import Program, Structure, divided, jit, remembered
from flax_sd.system.progress import Progress
from flax_sd.training.inputs.batches import StepBatch
from flax_sd.training.losses import Trees
from flax_sd.training.losses.diffusion import DiffusionLoss

OTHER = {"epsilon": "v_prediction", "v_prediction": "epsilon"}
PLACE = 0.9  # of the timesteps
SIDE = 64  # latents; enough of an image, and a quarter of SDXL's
# Relative to the error of an output of zeros. At that timestep a model of its own type is far below
# USELESS if it predicts noise; one of the other type below KNOWING; a new one at 1 in both.
USELESS, KNOWING = 0.7, 0.85
KEY = 21_000  # of the noise; any number


class Errors(NamedTuple):
    """Mean squared errors as parts of those of an output of zeros.

    Attributes:
      own: of the type that the schedule names.
      other: of the other type.
    """

    own: float
    other: float

    @property
    def tell_the_other(self) -> bool:
        """Whether the network predicts the other type."""
        return self.own > USELESS and self.other < KNOWING


def wanted(config: Config) -> bool:
    """Tells if a run's base model is checked: if it is pretrained, and not known to be right."""
    own = config.model
    known = own.path.startswith("bundled:") and own.prediction_type is None
    pretrained = config.mode.prompted and "unet" not in own.from_scratch
    return own.check_prediction and pretrained and not known


def check(
    config: Config,
    loss: Any,
    leaves: tuple[Trees, Trees],
    mesh: Mesh,
    batches: Generator[StepBatch, None, None],
    progress: Progress,
) -> None:
    """Checks what the UNet predicts, on an image of the first batch.

    Args:
      loss: of evaluations.
      leaves: the trained and the frozen ones.
      batches: are closed.

    Raises:
      UserError: it is another type than the model's config, or the options, say.
    """
    with contextlib.closing(batches):
        if not wanted(config):
            return
        with progress.work("checking what the model predicts"):
            found = errors(loss, *leaves, next(batches).batch, mesh)
    own = loss.denoising.schedule.prediction_type
    if found is None or not found.tell_the_other:
        return
    raise UserError(
        f"model.prediction_type is {own}, and {config.model.path} predicts {OTHER[own]}: near pure "
        f"noise its error is {found.own:.2f} of that of an output of zeros for {own}, and "
        f"{found.other:.2f} for {OTHER[own]}. Set model.prediction_type {OTHER[own]}. To teach the "
        "model another prediction type, set model.check_prediction false"
    )


def errors(
    loss: DiffusionLoss, params: Trees, frozen: Trees, batch: Any, mesh: Mesh
) -> Errors | None:
    """Returns the errors near pure noise; None for a network that predicts neither type."""
    if loss.denoising.schedule.prediction_type not in OTHER:
        return None
    numbers, structure = divided(loss)
    program = _errors_of(structure, mesh).with_first(numbers, mesh)
    return Errors(*map(float, program(params, frozen, batch)))


@remembered
def _errors_of(structure: Structure, mesh: Mesh) -> Program:
    """Builds the program for a loss of that structure, with the numbers as its first argument."""

    def relative(
        numbers: Sequence[jax.Array], params: Trees, frozen: Trees, batch: PyTree
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        loss = structure.filled(numbers)
        some = _part(batch)
        draws = loss.draw(jax.random.key(KEY), some)
        draws = draws._replace(timesteps=jnp.array([int(PLACE * loss.timesteps)]))
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            own, other = (
                each.loss(params, frozen, some, draws)[0] / _of_zeros(each, some, draws)
                for each in (loss, _other(loss))
            )
        return own, other

    return jit(relative, out_shardings=sharding.replicated(mesh))


def _part(batch: Any) -> Any:
    """Returns the middle of the first image, with all weights 1."""
    first = jax.tree.map(lambda leaf: leaf[:1], batch._replace(weight=None, mask=None))
    _, height, width, _ = first.moments.mean.shape
    top, left = (max(0, (side - SIDE) // 2) for side in (height, width))
    cut = (slice(None), slice(top, top + SIDE), slice(left, left + SIDE))
    return first._replace(moments=Moments(*(moment[cut] for moment in first.moments)))


def _other(loss: DiffusionLoss) -> DiffusionLoss:
    """Returns the loss of the other prediction type."""
    schedule = loss.denoising.schedule
    changed = dataclasses.replace(schedule, prediction_type=OTHER[schedule.prediction_type])
    return loss._replace(denoising=loss.denoising._replace(schedule=changed))


def _of_zeros(loss: DiffusionLoss, batch: Any, draws: Any) -> Float[Array, ""]:
    """Returns the error of an output of zeros."""
    moments = Moments(*(moment.astype(jnp.float32) for moment in batch.moments))
    latents = moments.sample(draws.posterior) * loss.scaling_factor
    target = loss.denoising.schedule.target(latents, draws.noise, draws.timesteps)
    return jnp.mean(jnp.square(target))
