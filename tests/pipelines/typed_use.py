"""What basedpyright, as a user's, infers of `load` and `generate`; nothing here runs."""

from typing import assert_type

import numpy as np
from PIL import Image

import flax_sd
from flax_sd.pipelines.outputs import Output


def stable_diffusion(form: Output) -> None:
    sd = assert_type(flax_sd.StableDiffusion.load("bundled:base"), flax_sd.StableDiffusion)
    assert_type(sd.generate("a cat"), np.ndarray)
    for output in ("uint8", "float", "latents"):
        assert_type(sd.generate(["a cat"], "bad", 20, output=output, seed=[1]), np.ndarray)
    assert_type(sd.generate("a cat", output="pil", callback=print), list[Image.Image])
    assert_type(sd.generate("a cat", output=form), np.ndarray | list[Image.Image])


def ddpm() -> None:
    model = assert_type(flax_sd.DDPM.load("runs/ddpm/model"), flax_sd.DDPM)
    assert_type(model.generate(4), np.ndarray)
    assert_type(model.generate(4, output="pil"), list[Image.Image])
