"""The flags of the sampling command."""

import pathlib
from typing import Annotated, Literal

from flax_sd.config import flags as command
from flax_sd.config.commands import Command, Dtype
from flax_sd.config.section import (
    MODEL,
    OUTPUT,
    Common,
    Section,
    Source,
    TokenLength,
    UserPath,
    changed,
)

PROMPTS, SAMPLING = Common("Prompts"), Common("Sampling")


class Settings(Section):
    """The settings of an image: flags apply to every row, a row's own come first."""

    negative_prompt: Annotated[str, PROMPTS] = ""
    """What the image should not show."""
    seed: Annotated[int, SAMPLING] = 0
    """Seed of a prompt's first image; the next ones count up, and -1 draws one."""
    width: Annotated[int | None, SAMPLING] = None
    """Pixels, a multiple of 8; unset takes what the model was trained on."""
    height: Annotated[int | None, SAMPLING] = None
    """Pixels, as for width."""
    steps: Annotated[int | None, SAMPLING] = None
    """Denoising steps; unset is 50. For an unconditional model, all that it was trained with."""
    guidance_scale: Annotated[float, SAMPLING] = 7.5
    """Classifier-free guidance; 1 and below turn it off."""
    sampler: Annotated[str | None, SAMPLING] = None
    """A name such as euler_a, dpmpp_2m_karras or "DPM++ 2M Karras"; unset takes the model's own."""
    images_per_prompt: Annotated[int, PROMPTS] = 1
    """Images of each prompt, or in total with an unconditional model."""
    clip_skip: int = 0
    """Number of the text encoder's last layers to leave out."""
    max_token_length: TokenLength = 75
    """Number of tokens of a prompt to read, in chunks of 75 as in training with
    data.max_token_length; 75 is what diffusers reads."""


class Inputs(Section):
    """The model, the prompts and what is added to the model."""

    model: Annotated[Source, MODEL]
    """A diffusers folder, a checkpoint in one .safetensors file, a hub id, or bundled:base."""
    prompt: Annotated[str | None, PROMPTS] = None
    """What the images should show. An unconditional model (of mode ddpm) takes none."""
    prompts: Annotated[UserPath | None, PROMPTS] = None
    """A .txt with one prompt on each line, or a .jsonl with one object on each. Lines of text are
    as sd-scripts reads them (a cat --n bad --w 64 --h 96 --d 7 --l 5.5 --s 2; # begins a comment);
    objects have prompt, and what differs from the flags (negative_prompt, seed, width, height,
    steps, guidance_scale and so on)."""
    lora: Annotated[tuple[Source, ...], MODEL] = ()
    """PATH or PATH:SCALE of a LoRA; may be repeated."""
    embedding: Annotated[tuple[Source, ...], MODEL] = ()
    """PATH or PATH:TOKEN of a textual-inversion file, for prompts; may be repeated."""


class SampleOptions(Settings, Inputs, Command):
    """Generates images from one prompt or a file of prompts, or with an unconditional model.

    Each image is a PNG with its settings; the same command again generates those that are
    missing."""

    EXAMPLES = (
        '--model bundled:base --prompt "a 3d render of a cat" --seed 1',
        "--model DIR --lora runs/cat/lora.safetensors:0.8 --prompts prompts.txt --out out",
    )

    batch_size: Annotated[int | None, OUTPUT] = None
    """Images generated together, over all devices. Unset takes what their size allows."""
    dtype: Annotated[Dtype, OUTPUT] = "auto"
    """Weights and arithmetic. auto is float32 on a CPU, float16 on a GPU without bfloat16 (T4,
    V100), bfloat16 elsewhere."""
    refiner: Source | None = None
    """SDXL's refiner, which makes the last steps of each image: a folder, a file or a hub id."""
    refiner_start: float = 0.8
    """Fraction of the noise that is gone where the refiner goes on, above 0 and below 1."""
    vae: Source | None = None
    """Another VAE: a folder or hub id that holds an AutoencoderKL or AutoencoderTiny."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """Weight files to load, such as fp16 in diffusion_pytorch_model.fp16.safetensors."""
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """The UNet's output, if a LoRA or the weights differ from the model's scheduler."""
    zero_snr: bool = False
    """End the noise schedule in pure noise, for models that were trained this way."""
    out: Annotated[UserPath, OUTPUT] = pathlib.Path("out")
    """Folder of the images. The same command again generates those that are missing."""

    def command(self) -> list[str]:
        """Returns the words of the command with these options."""
        words = command.words("sample")
        for name in changed(self):
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                words += [flag] if each is True else [flag, str(each)]
        return words
