"""Every option of a run: one place, one default, one line of documentation each.

A config is a YAML file checked by these models, and every value can be overridden by a flag of the
same dotted name. The line under a field is what `--help` shows; a comment gives a default's reason.
"""

import pathlib
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(pydantic.BaseModel):
    """A part of the config: unknown keys are errors, values do not change."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class ModelConfig(Section):
    """The model that the run starts from."""

    path: str = "bundled:base"
    """A diffusers folder, a hub id, or bundled:base."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """Weight files to take, as fp16 in diffusion_pytorch_model.fp16.safetensors."""
    vae: str | None = None
    """Another VAE: a folder or hub id that holds an AutoencoderKL or AutoencoderTiny."""
    clip_skip: Count = 0
    """How many of the text encoder's last layers to leave out."""
    from_scratch: tuple[Literal["unet", "vae", "text_encoder"], ...] = ()
    """Parts that start from random weights; their config.json in `path` gives the sizes."""


class DataConfig(Section):
    """The captioned pictures."""

    path: str = "bundled:style"
    """A folder of captioned pictures, a datasets id, a parquet or arrow file, or bundled:style."""
    resolution: Positive = 512
    """Side of the training pictures, in pixels; a multiple of 8."""
    center_crop: bool = False
    """Crop the middle of each picture; otherwise a place drawn anew each time."""
    random_flip: bool = False
    """Mirror half of the pictures, drawn anew each time."""
    image_column: str = "image"
    """Column of a data set that holds the picture."""
    caption_column: str = "text"
    """Column or metadata key that holds the caption, or a list of them: one is drawn each time."""
    background: str = "white"
    """Colour that shows through transparent pictures."""
    on_bad: Literal["skip", "stop"] = "skip"
    """What to do about pictures that cannot be read: skip (each is named) or stop."""
    workers: Positive = 2
    """Threads that decode pictures ahead."""
    encode_once: bool = True
    """Encode pictures and captions once and keep that in the user's cache folder; off, or where
    pictures are cut at a place drawn anew, it is done at each step."""
    held_out: str | None = None
    """Captioned pictures, as in path, whose loss is measured before and after the run."""
    held_out_base: str | None = None
    """The same of what the model drew before: a rising loss shows what the run makes it forget."""

    @pydantic.field_validator("resolution")
    @classmethod
    def _multiple_of_8(cls, value: int) -> int:
        if value % 8:
            raise ValueError(
                f"must be a multiple of 8 (the VAE's stride); near it: {value // 8 * 8 or 8}"
            )
        return value


class TrainConfig(Section):
    """The training loop."""

    mode: Literal["lora", "full", "vae"] = "lora"
    """lora: adapters on a frozen model; full: the UNet itself; vae: the autoencoder."""
    steps: Positive = 1000
    """Optimizer steps of the run."""
    epochs: Positive | None = None
    """Passes over the pictures; the smaller of steps and epochs ends the run."""
    batch_size: Positive = 1
    """Pictures a step, over all devices and accumulated parts."""
    accumulate: Positive = 1
    """Parts that a batch is divided into, one after another, to save memory."""
    text_encoder: bool = False
    """Train the text encoder too (its LoRA, or all of it in mode full)."""
    remat: Literal["none", "blocks", "full"] = "none"
    """Recompute activations in the backward pass, block by block or in full within each block
    too: less memory, more time."""
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of captions replaced by the empty one, which teaches guidance from scratch."""
    min_snr_gamma: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Weigh each timestep's loss by min(SNR, gamma), as an error of the picture (5 is usual); the
    held-out losses stay unweighted. Unset weighs all errors of the noise alike."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep a running mean of what is trained, with this decay a step (0.999 for thousands of
    steps), and use it for samples, held-out loss and results; it takes as much memory as what is
    trained. Unset keeps none."""
    deterministic: bool = True
    """On a GPU, only operations that give the same bytes each time."""


class LoRAConfig(Section):
    """The adapters of mode lora."""

    rank: Positive = 4  # the reference script's
    """Rank of the update matrices."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Strength: the update is scaled by alpha / rank; unset means alpha = rank."""
    targets: str = "attention"
    """attention, attention+ff, all-linear, conv, or a regular expression over module paths."""
    init: Literal["gaussian", "kaiming"] = "gaussian"  # the reference script's
    """How the down matrices start; the up matrices start at zero."""


class OptimConfig(Section):
    """AdamW and its learning rate."""

    learning_rate: Rate = 1e-4
    """Learning rate after the warm-up."""
    text_encoder_learning_rate: Rate | None = None
    """The text encoder's own; unset means learning_rate."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the gradient's mean."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the squared gradient's mean."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the squared gradient's mean."""
    weight_decay: Rate = 0.01
    """Decoupled weight decay, times the learning rate a step."""
    text_encoder_weight_decay: Rate | None = None
    """The text encoder's own; unset means weight_decay."""
    max_grad_norm: Rate = 1.0
    """Largest global norm of the gradient; 0 leaves it alone."""
    schedule: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
    ] = "constant"
    """Course of the learning rate, as in diffusers' get_scheduler."""
    warmup_steps: Count = 0
    """Steps of linear warm-up; constant has none."""
    cycles: Annotated[float, Field(gt=0)] | None = None
    """Waves of cosine (unset: 0.5) or restarts of cosine_with_restarts (unset: 1)."""
    power: Annotated[float, Field(gt=0)] = 1.0
    """Exponent of polynomial."""


class VAELossConfig(Section):
    """The loss of mode vae."""

    kl_weight: Rate = 1e-6  # Rombach et al. 2022, §G
    """Weight of the KL term, in nats a latent, beside the reconstruction's mean error."""
    l1_weight: Rate = 0.5
    """Share of |error| in the reconstruction error; the rest is its square."""


class CheckpointConfig(Section):
    """Saving, so that the same command goes on."""

    every: Positive = 500
    """Steps between two saves."""
    keep: Positive = 3
    """How many of the newest checkpoints to keep."""


class SampleConfig(Section):
    """Pictures drawn during and after the run."""

    every: Positive | None = None
    """Steps between two grids of samples; unset draws none between the first and the last step."""
    prompts: tuple[str, ...] = ()
    """Captions to draw; with them, the run ends with a before/after sheet. With `every` alone,
    captions of the data."""
    steps: Positive = 25
    """Denoising steps of a sample."""
    guidance_scale: Rate = 7.5
    """Classifier-free guidance; 1 and below turn it off."""
    sampler: str | None = None
    """ddpm, ddim, pndm, euler or euler_a; unset takes the checkpoint's own."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the first prompt's picture; the next prompts count up."""


class MeshConfig(Section):
    """The devices' mesh."""

    data: Annotated[int, Field(ge=-1)] = -1
    """Copies of the model that divide the batch; -1 takes all devices left by fsdp."""
    fsdp: Positive = 1
    """Devices that share one copy of the frozen weights."""


class LogConfig(Section):
    """What is written down."""

    every: Positive = 10
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard files too (extra: tensorboard)."""
    wandb: bool = False
    """Log to Weights & Biases too (extra: wandb; WANDB_MODE=offline works)."""


class Config(Section):
    """One run of train.py."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    lora: LoRAConfig = LoRAConfig()
    optim: OptimConfig = OptimConfig()
    vae_loss: VAELossConfig = VAELossConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sample: SampleConfig = SampleConfig()
    mesh: MeshConfig = MeshConfig()
    log: LogConfig = LogConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # JAX's keys tell no more apart
    """Seed of everything that the run draws."""
    output: pathlib.Path = pathlib.Path("runs/lora")
    """Folder of the run; the same command with the same folder resumes."""
    profile: Annotated[str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$")] | None = None
    """Steps to trace into output/profile, as 10:12, for Perfetto or TensorBoard."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the networks; auto is float32 on a CPU, bfloat16 elsewhere."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Config":
        problems = self._idle_options()
        if self.train.batch_size % self.train.accumulate:
            problems.append(
                f"train.batch_size {self.train.batch_size} is not divisible by "
                f"train.accumulate {self.train.accumulate}"
            )
        if self.profile:
            first, last = map(int, self.profile.split(":"))
            if first > last:
                problems.append(f"profile {self.profile} ends before it begins; {last}:{first}?")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _idle_options(self) -> list[str]:
        """Options that would do nothing, or nothing sensible, in the mode."""
        train, mode = self.train, self.train.mode
        trained = {"lora": (), "vae": ("vae",), "full": ("unet",)}[mode]
        if mode == "full" and train.text_encoder:
            trained = ("unet", "text_encoder")
        problems = [
            f"model.from_scratch has {name}, which train.mode {mode} does not train"
            + (" (train.text_encoder does)" if mode == "full" and name != "vae" else "")
            for name in self.model.from_scratch
            if name not in trained
        ]
        set_in_vae = {
            "train.text_encoder": train.text_encoder,
            "train.remat": train.remat != "none",
            "train.caption_dropout": train.caption_dropout,
            "train.min_snr_gamma": train.min_snr_gamma,
            "model.clip_skip": self.model.clip_skip,
            "sample.every": self.sample.every,
            "sample.prompts": self.sample.prompts,
        }
        if mode == "vae":
            names = [name for name, value in set_in_vae.items() if value]
            problems += [f"{name} has no meaning in train.mode vae" for name in names]
        return problems


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain values, the way config.yaml holds it."""
    return config.model_dump(mode="json")
