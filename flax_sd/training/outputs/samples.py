"""Images from the model in training: grids during the run, a before/after sheet at its end.

The images of step 0 are saved beside their grid, since the untrained model is gone when the sheet
is made.
"""

import io
import pathlib

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flax_sd.config import Config
from flax_sd.files.atomic import write_atomically
from flax_sd.generation.image_grid import make_grid, make_sheet
from flax_sd.run_folder.layout import BEFORE, SAMPLES_FOLDER, SHEET
from flax_sd.run_folder.sample_grid import grid_info
from flax_sd.training.losses import Trees
from flax_sd.training.outputs.preview_samplers import PreviewSampler

GRID_COLUMNS = 4


class Samples:
    """Grids of a sampler's images with the current weights.

    Every process generates all images, so that none waits in a collective; the first one writes.

    Attributes:
      prompts: a prompt for each image; empty for an unconditional model.
    """

    def __init__(self, config: Config, sampler: PreviewSampler):
        self._config, self._sampler, self.prompts = config, sampler, sampler.prompts
        self._folder = config.output / SAMPLES_FOLDER

    def images(self, params: Trees) -> UInt8[np.ndarray, "n h w 3"]:
        """Generates the images of a grid with these weights.

        Raises:
          Interrupted: the run is to end; they are generated when it resumes.
        """
        return self._sampler.generate(params)

    def write(self, step: int, images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Writes and returns the images of a step as one labelled grid."""
        if step == 0 and self.prompts:
            self._save_before(images)
        return self._write_grid(step, images)

    @property
    def count(self) -> int:
        """Number of images in a grid."""
        return len(self._sampler.labels)

    @property
    def first_wanted(self) -> bool:
        """Whether a grid before the first step is asked for and missing."""
        return self._config.sample.at_first and not self.has(0)

    def finish(
        self, step: int, images: UInt8[np.ndarray, "n h w 3"]
    ) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "S T 3"] | None]:
        """Writes the last step's grid, and its images beside those of step 0 if these exist."""
        before, sheet = self._before(), None
        if before is not None:
            rows = [list(before), list(images)]
            sheet = make_sheet(rows, self.prompts, ["before", f"step {step}"])
            if jax.process_index() == 0:
                _save_png(self.sheet, sheet)
        return self._write_grid(step, images), None if sheet is None else np.asarray(sheet)

    def has(self, step: int) -> bool:
        """Tells if the grid of that step exists (for step 0, also the images of its prompts)."""
        whole = step > 0 or not self.prompts or self._before() is not None
        return self.path(step).is_file() and whole

    def path(self, step: int) -> pathlib.Path:
        """Returns the path of a step's grid."""
        return self._folder / f"step-{step:06d}.png"

    @property
    def sheet(self) -> pathlib.Path:
        """Path of the sheet of images before and after the run."""
        return self._folder / SHEET

    def _write_grid(
        self, step: int, images: UInt8[np.ndarray, "n h w 3"]
    ) -> UInt8[np.ndarray, "H W 3"]:
        across = min(GRID_COLUMNS, len(images))
        sheet, places = make_grid(list(images), self._sampler.labels, across)
        if jax.process_index() == 0:
            _save_png(self.path(step), sheet, grid_info(places))
        return np.asarray(sheet)

    def _save_before(self, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        if jax.process_index() == 0:
            memory = io.BytesIO()
            np.savez_compressed(memory, pictures=images, prompts=np.array(self.prompts))
            write_atomically(self._folder / BEFORE, memory.getvalue())

    def _before(self) -> UInt8[np.ndarray, "n h w 3"] | None:
        """Reads the images of step 0; None if they are missing or of other prompts."""
        path = self._folder / BEFORE
        if not path.is_file():
            return None
        with np.load(path) as saved:
            images, prompts = saved["pictures"], saved["prompts"].tolist()
        side = self._config.data.resolution
        fits = prompts == self.prompts and images.shape[1:3] == (side, side)
        return images if fits else None


def _save_png(path: pathlib.Path, image: Image.Image, info: PngInfo | None = None) -> None:
    memory = io.BytesIO()
    image.save(memory, format="PNG", pnginfo=info)
    write_atomically(path, memory.getvalue())
