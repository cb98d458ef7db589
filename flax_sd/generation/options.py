"""The flags of the sampling command."""

import pathlib
from typing import Annotated, Literal

import tyro

from flax_sd.config import Section
from flax_sd.config import flags as command
from flax_sd.config.section import Source, UserPath, changed
from flax_sd.generation.prompts import Settings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Inputs(Section):
    """The model, the prompts and what is added to the model."""

    model: Source
    """A diffusers folder, a hub id, or bundled:base."""
    prompt: str | None = None
    """What the images should show; an unconditional model (of mode ddpm) takes none."""
    prompts: UserPath | None = None
    """A .txt with one prompt on each line, as sd-scripts reads them (a cat --n bad --w 64 --h 96
    --d 7 --l 5.5 --s 2; # begins a comment), or a .jsonl with objects: prompt, and what differs
    from the flags (negative_prompt, seed, width, height, steps, guidance_scale and so on)."""
    lora: Annotated[tuple[Source, ...], tyro.conf.UseAppendAction] = ()
    """PATH or PATH:SCALE of a LoRA; may be repeated."""
    embedding: Annotated[tuple[Source, ...], tyro.conf.UseAppendAction] = ()
    """PATH or PATH:TOKEN of a textual-inversion file, whose token prompts may then use; may be
    repeated."""


class SampleOptions(Settings, Inputs):
    """Generates images from one prompt or a file of prompts, or with an unconditional model."""

    batch_size: int | None = None
    """Images generated together, over all devices; unset takes what their size allows."""
    dtype: Dtype = "auto"
    """Weights and arithmetic; auto is float32 on a CPU, float16 on a GPU without bfloat16 (T4,
    V100), bfloat16 elsewhere."""
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
    out: UserPath = pathlib.Path("out")
    """Folder of the images; the same command again generates those that are missing."""

    def command(self) -> list[str]:
        """Returns the words of the command with these options."""
        words = command.words("sample")
        for name in changed(self):
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                words += [flag] if each is True else [flag, str(each)]
        return words
