"""A second model that makes the last steps of each image, as SDXL's refiner does."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_sd import samplers
from flax_sd.errors import UserError, all_of
from flax_sd.files.json_values import JsonObject
from flax_sd.generation.options import SampleOptions
from flax_sd.generation.prompts import Row
from flax_sd.pipelines.options import Options
from flax_sd.pipelines.span import read_span
from flax_sd.pipelines.stable_diffusion import StableDiffusion
from flax_sd.system import sharding
from flax_sd.weights import hub, identity
from flax_sd.weights.family import STABLE_DIFFUSION_XL
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles


class Refiner(NamedTuple):
    """The model on disk, and the fraction of the noise that is gone where it goes on."""

    files: ModelFiles
    start: float

    @property
    def span(self) -> Options:
        """Its steps, as an option of `generate`."""
        return {"denoising_start": self.start}


def find(options: SampleOptions, base: ModelFiles) -> Refiner | None:
    """Finds the refiner that the flags name; None without one.

    Raises:
      UserError: there is no such model, or one of the two is not SDXL.
    """
    if options.refiner is None:
        return None
    folder = hub.resolve(options.refiner, None, options.variant)
    files = ModelFiles(folder, source=options.refiner, variant=options.variant)
    files.check_kind()
    for flag, model in (("--model", base), ("--refiner", files)):
        if model.kind.name != STABLE_DIFFUSION_XL.name:
            raise UserError(
                f"{flag} {model.source} is not SDXL: a refiner goes on with an SDXL model's latents"
            )
    return Refiner(files, options.refiner_start)


def check_rows(refiner: Refiner, rows: Sequence[Row]) -> None:
    """Checks that the refiner can go on with these rows, which have their steps.

    Raises:
      UserError: a sampler or a number of steps is not one that it can use; all are named.
    """
    problems: dict[str, None] = {}
    for name, steps in dict.fromkeys((row.sampler, row.steps or 1) for row in rows):
        try:
            config = samplers.config_of(name, refiner.files.scheduler_config)
            read_span(refiner.span, samplers.from_config(config, steps), config, latents=True)
        except UserError as error:
            problems[f"--refiner {refiner.files.source}: {error}"] = None
    if problems:
        raise UserError(all_of(list(problems)))


def record(refiner: Refiner | None) -> JsonObject:
    """Returns what images' settings say of it."""
    if refiner is None:
        return {}
    return {
        "refiner": identity.display_name(refiner.files.source),
        "refiner_hash": refiner.files.fingerprint(refiner.files.kind.networks),
        "refiner_start": refiner.start,
    }


class Refined:
    """A base model and a refiner, which generate as one model does."""

    def __init__(self, base: StableDiffusion, refiner: Refiner, dtype: str):
        """Loads the refiner.

        Raises:
          UserError: it is damaged, or its components do not fit each other.
        """
        self._base, self._start = base, refiner.start
        self._refiner = StableDiffusion(Model.load(refiner.files, dtype))
        self._refiner.distribute(sharding.make_mesh(-1, 1))

    def generate(
        self, prompts: list[str], negatives: list[str], *, output: Any, **options: Any
    ) -> np.ndarray:
        """Generates images: the base model's steps, then the refiner's.

        Args:
          prompts, negatives, options: as of `StableDiffusion.generate`, for both models.
          output: the form of the images.
        """
        latents = self._base.generate(
            prompts, negatives, output="latents", denoising_end=self._start, **options
        )
        return self._refiner.generate(
            prompts,
            negatives,
            latents=latents,
            output=output,
            denoising_start=self._start,
            **options,
        )
