"""Pictures drawn from the model in training: grids during the run, a before/after sheet at its end.

The pictures of step 0 are kept beside their grid, since the model that drew them is gone when the
sheet is made.
"""

import io
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from PIL import Image

from flax_sd.config import Config
from flax_sd.data import Pictures
from flax_sd.disk import reason
from flax_sd.errors import UserError
from flax_sd.losses import Trees
from flax_sd.pipeline import StableDiffusion
from flax_sd.runs.parts import Parts, trained_whole
from flax_sd.runs.precision import resolve_dtype
from flax_sd.sheet import make_grid, make_sheet

FOLDER, BEFORE, SHEET = "samples", "before.npz", "before_after.png"
AT_ONCE = 4  # pictures a batch
ACROSS = 4  # of a grid
BORROWED = 4  # captions taken from the data where none are given


def choose_prompts(config: Config, pictures: Pictures) -> tuple[str, ...]:
    """`sample.prompts`, or captions of the data if only `sample.every` is set."""
    if config.sample.prompts or config.sample.every is None:
        return config.sample.prompts
    return tuple(pictures.captions(i)[0] for i in range(min(BORROWED, len(pictures))))


class Interrupted(Exception):
    """The run is to end before all pictures are drawn."""


class Samples:
    """Draws prompts from fixed seeds with the weights of the moment.

    All processes draw, each for itself, so that none waits in a collective; the first one writes.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts,
        prompts: Sequence[str],
        stopping: Callable[[], bool] = lambda: False,
    ):
        """Draws until it is done, or `stopping` says that the run is to be saved and ended."""
        assert parts.tokenizer is not None, "mode vae draws nothing"
        self._config, self._prompts, self._stopping = config, list(prompts), stopping
        self._networks, self._dtype = parts.networks, resolve_dtype(config.compute_dtype)
        self._pipeline = StableDiffusion.from_parts(
            folder=parts.folder,
            unet=parts.networks["unet"],
            vae=parts.networks["vae"],
            text_encoder=parts.networks["text_encoder"],
            tokenizer=parts.tokenizer,
        )
        self._pipeline.scheduler_config = parts.scheduler_config
        self._folder = config.output / FOLDER

    def draw(self, params: Trees) -> UInt8[np.ndarray, "n h w 3"]:
        """One picture a prompt.

        Raises:
          Interrupted: the run is to end; a grid is drawn anew when it resumes.
        """
        for name, leaves in params.items():
            nnx.update(self._networks[name], jax.tree.map(self._host_copy, leaves))
        settings, side = self._config.sample, self._config.data.resolution
        pictures = []
        for start in range(0, len(self._prompts), AT_ONCE):
            if self._stopping():
                raise Interrupted
            part = self._prompts[start : start + AT_ONCE]
            drawn = self._pipeline.generate(
                part + part[:1] * (AT_ONCE - len(part)),  # padded: one compilation
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                seed=[settings.seed + start + k for k in range(AT_ONCE)],
                height=side,
                width=side,
                clip_skip=self._config.model.clip_skip,
            )
            pictures.append(drawn[: len(part)])
        return np.concatenate(pictures)

    def grid(self, step: int, params: Trees) -> UInt8[np.ndarray, "H W 3"]:
        """Draws the pictures of a step and writes them as one labelled grid, which is returned."""
        pictures = self.draw(params)
        if step == 0:
            self._keep(pictures)
        return self._write_grid(step, pictures)

    def finish(self, step: int, params: Trees) -> UInt8[np.ndarray, "H W 3"]:
        """The last step's grid, and its pictures beside those of step 0 if these are there."""
        pictures = self.draw(params)
        before = self._before()
        if before is not None and jax.process_index() == 0:
            rows = [list(before), list(pictures)]
            sheet = make_sheet(rows, self._prompts, ["before", f"step {step}"])
            save_png(self.sheet, sheet)
        return self._write_grid(step, pictures)

    def has(self, step: int) -> bool:
        """Whether the grid of that step is there (for step 0, its pictures too)."""
        return self.path(step).is_file() and (step > 0 or self._before() is not None)

    def path(self, step: int) -> pathlib.Path:
        """The grid of a step."""
        return self._folder / f"step-{step:06d}.png"

    @property
    def sheet(self) -> pathlib.Path:
        """The pictures before and after the run."""
        return self._folder / SHEET

    def _host_copy(self, leaf: jax.Array) -> np.ndarray:
        """The leaf in the networks' own dtype; LoRA leaves stay float32."""
        whole = bool(trained_whole(self._config))
        return np.asarray(leaf).astype(jnp.dtype(self._dtype) if whole else leaf.dtype)

    def _write_grid(
        self, step: int, pictures: UInt8[np.ndarray, "n h w 3"]
    ) -> UInt8[np.ndarray, "H W 3"]:
        sheet = make_grid(list(pictures), self._prompts, min(ACROSS, len(pictures)))
        if jax.process_index() == 0:
            save_png(self.path(step), sheet)
        return np.asarray(sheet)

    def _keep(self, pictures: UInt8[np.ndarray, "n h w 3"]) -> None:
        if jax.process_index() == 0:
            memory = io.BytesIO()
            np.savez_compressed(memory, pictures=pictures, prompts=np.array(self._prompts))
            _write(self._folder / BEFORE, memory.getvalue())

    def _before(self) -> UInt8[np.ndarray, "n h w 3"] | None:
        """The pictures of step 0, unless others were drawn then."""
        path = self._folder / BEFORE
        if not path.is_file():
            return None
        with np.load(path) as kept:
            pictures, prompts = kept["pictures"], kept["prompts"].tolist()
        side = self._config.data.resolution
        fits = prompts == self._prompts and pictures.shape[1:3] == (side, side)
        return pictures if fits else None


def save_png(path: pathlib.Path, picture: Image.Image, **options: Any) -> None:
    """Writes a PNG aside and renames it, so that none is ever half there.

    Raises:
      UserError: it cannot be written.
    """
    memory = io.BytesIO()
    picture.save(memory, format="PNG", **options)
    _write(path, memory.getvalue())


def _write(path: pathlib.Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written: {reason(error, path)}") from error
