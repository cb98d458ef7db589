"""The options of the commands, beside those of a config."""

import pathlib
from typing import Annotated, ClassVar, Literal

import pydantic

from flax_sd.config.section import (
    OUTPUT,
    WORD,
    Common,
    Positive,
    Section,
    Source,
    UserPath,
    Written,
)
from flax_sd.files.paths import user_source

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
PLAN, CHECK, FILE = Common("The plan"), Common("The check"), Common("The file")
RUN, BENCH = Common("The run"), Common("The measurement")


class Command(Section):
    """The options of a command; the docstring of a subclass says what the command does.

    Attributes:
      EXAMPLES: what follows the command's name, for the help.
      CONFIG: the groups, and single options, of a config that --help shows; none if the command
        takes no config.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ()
    CONFIG: ClassVar[tuple[str, ...]] = ()


class TrainOptions(Command):
    """Trains a LoRA, a UNet, an autoencoder or new words, from a config and flags.

    Without a config it trains the quickstart. The same command again resumes where the run
    stopped."""

    EXAMPLES = (
        "sd15_lora --data.path my_pictures --output runs/cat --train.steps 1500",
        "--repeat runs/cat/config.yaml",
    )
    CONFIG = ("Model", "Images", "LoRA", "Training", "Output")

    verbose: Annotated[bool, RUN] = False
    """Show all options, findings, gradient norm and memory (or -v)."""
    repeat: Annotated[UserPath | None, RUN] = None
    """A finished run's config.yaml: train it again, compare the bytes. The new run is in
    --output, or RUN-repeated."""


class PlanOptions(Command):
    """Shows whether a run fits into memory, the largest batch that does, and its work.

    Nothing is trained and only the model is downloaded; the exit status is 1 if it does not fit."""

    EXAMPLES = (
        "sd15_lora --train.batch_size 4 --device-memory 24GB",
        "sd15_lora --topology v5e:4x4 --mesh.data 16",
    )
    CONFIG = ("Model", "LoRA", "Training")

    topology: Annotated[str | None, PLAN] = None
    """The TPU to plan for, as v5e:4x4; by default this machine's devices."""
    device_memory: Annotated[str | None, PLAN] = None
    """Memory of each device, as 24GB; by default as the device reports."""


class CheckDataOptions(Command):
    """Finds problems of a run's images and captions, and writes a page that shows them.

    No file is moved or changed; the exit status is 1 if an image has to be left out."""

    EXAMPLES = ("sd15_lora --data.path my_pictures --output runs/cat",)
    CONFIG = ("Images", "output")


class ExportOptions(Command):
    """Writes a run's LoRA, new tokens or model for other tools."""

    EXAMPLES = (
        "runs/cat --to peft --out cat_peft.safetensors",
        "runs/cat --to merged --out cat_model",
        "runs/cat --to single-file --dtype float16 --out cat_model.safetensors",
    )

    run: Annotated[UserPath, WORD, Written("RUN"), FILE]
    """A run's folder, or a LoRA file."""
    to: Annotated[Literal["diffusers", "kohya", "peft", "merged", "single-file"], FILE]
    """The format. kohya (web UIs) or peft (diffusers): a LoRA file. merged: the whole model as a
    diffusers folder, with the LoRA merged into its weights. diffusers: the same, for a run that
    trained the whole model. single-file: either in one .safetensors file, as web UIs read it. A
    run of mode textual_inversion: kohya, for its tokens."""
    out: Annotated[UserPath, FILE]
    """The file or folder to write. It replaces an earlier export, but no other file."""
    model: Annotated[Source | None, FILE] = None
    """The base model of a LoRA file, a folder or hub id; by default the run's."""
    step: Annotated[Literal["last", "best"], FILE] = "last"
    """The state of a run. It is that after its last step, or with the lowest val_loss."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """Variant of the model's weight files, such as fp16."""
    strength: Annotated[float, FILE] = 1.0
    """Factor of the LoRA."""
    bake: Positive | None = None
    """Write the closest plain LoRA of this rank, for programs without DoRA."""
    dtype: Annotated[Dtype, FILE] = "auto"
    """Dtype of the written tensors. auto is that of the LoRA file or the model's UNet."""


class ConvertOptions(Command):
    """Writes a model in another form: a diffusers folder, or one .safetensors file.

    Without --dtype every tensor keeps its numbers, bit for bit. No more than one tensor is in
    memory at a time."""

    EXAMPLES = (
        "model.safetensors model_folder",
        "stable-diffusion-v1-5/stable-diffusion-v1-5 sd15.safetensors --dtype float16",
    )

    source: Annotated[str, pydantic.AfterValidator(user_source), WORD, Written("SOURCE"), FILE]
    """A diffusers folder, a checkpoint in one .safetensors file, or a hub id."""
    out: Annotated[UserPath, WORD, Written("OUT"), FILE]
    """The folder to write, or a name that ends in .safetensors for one file. It replaces an
    earlier export, but nothing else."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], FILE] = "auto"
    """Dtype of the written weights. auto keeps that of each tensor."""
    config: Annotated[Source | None, FILE] = None
    """A folder whose configs, tokenizers and scheduler serve a file of sizes that no public model
    has."""
    prediction_type: Annotated[Literal["epsilon", "v_prediction"] | None, FILE] = None
    """The UNet's output, where the model's files say another one, or a file of Stable Diffusion
    2.x says none."""
    zero_snr: bool = False
    """Say that the noise schedule ends in pure noise, for models that were trained this way."""
    ema: bool = False
    """Take a file's running mean of the UNet (model_ema) in place of its last weights."""
    vae: Source | None = None
    """Another VAE in place of the model's: a folder, a file or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """Variant of the model's weight files, such as fp16."""


class InspectOptions(Command):
    """Shows what a LoRA, embedding or checkpoint file holds, its problems and what loads it.

    The exit status is 0 if it has no problem and diffusers, ComfyUI and A1111 load all of a LoRA
    or embedding (and it fits --model), 1 if not, 2 if it is no such file."""

    EXAMPLES = ("runs/cat", "cat.safetensors --model stable-diffusion-v1-5/stable-diffusion-v1-5")

    path: Annotated[UserPath, WORD, Written("FILE"), FILE]
    """A .safetensors file, or a folder that holds one, such as a run's."""
    model: Annotated[Source | None, FILE] = None
    """A model that the file should fit: a folder or hub id."""
    all: Annotated[bool, FILE] = False
    """List every key that a program does not load, not only the first."""


class BenchOptions(Command):
    """Times this machine, beside diffusers if it is installed.

    The first training step and the first image, counted from the start of the process, with nothing
    compiled (cold) and with compiled programs on disk (warm); steps and images a second after
    that; the peak of memory."""

    EXAMPLES = ("--quick", "--model stable-diffusion-v1-5/stable-diffusion-v1-5 --only images")

    model: Annotated[Source, BENCH] = "bundled:base"
    """A diffusers folder, a hub id, or bundled:base."""
    resolution: Annotated[Positive | None, BENCH] = None
    """Side of the images in pixels; unset takes what the model was trained on."""
    batch_size: Annotated[Positive, BENCH] = 1
    """Images in a training step, and images generated together."""
    steps: Annotated[Positive | None, BENCH] = None
    """Steps of DDIM for an image; unset takes 20, with --quick 4."""
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], BENCH] = "float32"
    """Weights and arithmetic, on both sides."""
    only: Annotated[Literal["training", "images"] | None, BENCH] = None
    """Measures one of the two alone."""
    repeats: Annotated[Positive, BENCH] = 1
    """Processes for each figure, whose medians are shown; those of both sides take turns."""
    quick: Annotated[bool, BENCH] = False
    """Fewer steps and shorter runs: half the time, and less exact."""
    out: Annotated[UserPath | None, BENCH] = None
    """A JSON file to write the figures to, with the machine and the versions."""


class CompareOptions(Command):
    """Shows runs side by side: a table here, and a page with their curves and images."""

    EXAMPLES = ("runs/cat runs/cat_rank32 --out compare.html",)

    runs: Annotated[tuple[UserPath, ...], WORD, OUTPUT, Written("RUN RUN ...")]
    """Folders of runs."""
    out: Annotated[UserPath, OUTPUT] = pathlib.Path("compare.html")
    """The page to write; images stay in the runs' folders."""


class ConfigsOptions(Command):
    """Lists the configs that come with the package, or prints one.

    Each is a recipe: what it makes, on which hardware, and what to expect. Commands take it by its
    name."""

    EXAMPLES = ("sd15_lora > mine.yaml",)

    name: Annotated[str | None, WORD, FILE, Written("[NAME]")] = None
    """The config to print, such as sd15_lora; without it, all are listed."""
