"""Pictures drawn from the model in training: grids during the run, a before/after sheet at its end."""

import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from PIL import Image

from flax_sd.config import Config
from flax_sd.pipeline import StableDiffusion
from flax_sd.runs.parts import Parts
from flax_sd.sheet import make_sheet

FOLDER = "samples"
AT_ONCE = 4  # pictures a batch


class Samples:
    """Draws `sample.prompts` from fixed seeds with the weights of the moment."""

    def __init__(self, config: Config, parts: Parts):
        self._config = config
        self._networks = parts.networks
        self._pipeline = StableDiffusion.from_parts(
            folder=parts.folder,
            unet=parts.networks["unet"],
            vae=parts.networks["vae"],
            text_encoder=parts.networks["text_encoder"],
            tokenizer=parts.tokenizer,
        )
        self._folder = config.output / FOLDER

    def draw(self, params: dict[str, nnx.State]) -> UInt8[np.ndarray, "n h w 3"]:
        """One picture a prompt."""
        for name, leaves in params.items():
            nnx.update(self._networks[name], jax.tree.map(np.asarray, leaves))
        settings, side = self._config.sample, self._config.data.resolution
        pictures = []
        for start in range(0, len(settings.prompts), AT_ONCE):
            part = list(settings.prompts[start : start + AT_ONCE])
            padded = part + part[:1] * (AT_ONCE - len(part))  # one compilation
            seeds = [settings.seed + start + k for k in range(AT_ONCE)]
            drawn = self._pipeline.generate(
                padded,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                sampler=settings.sampler,
                seed=seeds,
                height=side,
                width=side,
            )
            pictures.append(drawn[: len(part)])
        return np.concatenate(pictures)

    def grid(self, step: int, params: dict[str, nnx.State]) -> pathlib.Path:
        """Writes the pictures of a step as one labelled grid."""
        pictures = self.draw(params)
        title = f"step {step}"
        path = self._folder / f"step-{step:06d}.png"
        save_png(path, make_sheet([[p] for p in pictures], [title], self._config.sample.prompts))
        np.save(self._raw(step), pictures)
        return path

    def has(self, step: int) -> bool:
        """Whether the pictures of that step were drawn."""
        return self._raw(step).is_file()

    def before_after(self, step: int) -> pathlib.Path:
        """Writes the pictures of step 0 and of `step` side by side."""
        pairs = zip(np.load(self._raw(0)), np.load(self._raw(step)), strict=True)
        path = self._folder / "before_after.png"
        prompts = self._config.sample.prompts
        save_png(path, make_sheet([list(p) for p in pairs], ["before", f"step {step}"], prompts))
        return path

    def _raw(self, step: int) -> pathlib.Path:
        return self._folder / f"step-{step:06d}.npy"


def save_png(path: pathlib.Path, picture: Image.Image, **options: Any) -> None:
    """Writes a PNG aside and renames it, so that none is ever half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    picture.save(aside, format="PNG", **options)
    os.replace(aside, path)
