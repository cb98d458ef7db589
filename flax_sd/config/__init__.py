"""Every option of a run: one place, one default, one line of documentation each.

A config is a YAML file checked by these models, and every value can be overridden by a flag of the
same dotted name. The line under a field is what `--help` shows; a comment gives a default's reason.
"""

import pathlib
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from flax_sd.config.data import DataConfig
from flax_sd.config.lora import LoRAConfig
from flax_sd.config.loss import LossConfig, NoiseConfig, TimestepsConfig
from flax_sd.config.model import ModelConfig
from flax_sd.config.modes import CAPTIONS, DENOISING, MODES, NEW_TOKENS, Mode, Needs
from flax_sd.config.optim import OptimConfig
from flax_sd.config.outputs import CheckpointConfig, LogConfig, MeshConfig, SampleConfig
from flax_sd.config.section import (
    MAY_DIFFER,
    OUTPUT,
    TRAINING,
    OnResume,
    Section,
    UserPath,
    Whole,
    changed,
    marks,
)
from flax_sd.config.tokens import TokensConfig
from flax_sd.config.train import TrainConfig, VAELossConfig
from flax_sd.config.validation import ValidationConfig
from flax_sd.files.json_values import JsonObject


class Config(Section):
    """One run of train.py."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    # Most of lora's may stay: a config of mode lora becomes one of mode full, vae or
    # textual_inversion by one flag.
    lora: Annotated[LoRAConfig, CAPTIONS] = LoRAConfig()
    tokens: Annotated[TokensConfig, NEW_TOKENS] = TokensConfig()
    optim: OptimConfig = OptimConfig()
    loss: Annotated[LossConfig, DENOISING] = LossConfig()
    timesteps: Annotated[TimestepsConfig, DENOISING] = TimestepsConfig()
    noise: Annotated[NoiseConfig, DENOISING] = NoiseConfig()
    vae_loss: Annotated[VAELossConfig, CAPTIONS] = VAELossConfig()
    validation: Annotated[ValidationConfig, MAY_DIFFER] = ValidationConfig()
    checkpoint: Annotated[CheckpointConfig, MAY_DIFFER] = CheckpointConfig()
    sample: Annotated[SampleConfig, MAY_DIFFER] = SampleConfig()
    mesh: MeshConfig = MeshConfig()
    log: Annotated[LogConfig, MAY_DIFFER] = LogConfig()
    seed: Annotated[Whole, Field(ge=-1, lt=2**32), TRAINING] = 0  # JAX's keys tell no more apart
    """Seed of all random numbers; -1 draws one. It is saved in config.yaml."""
    output: Annotated[UserPath, MAY_DIFFER, OUTPUT] = pathlib.Path("runs/lora")
    """Folder of the run. Run the same command with the same folder again to resume."""
    profile: Annotated[Annotated[str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$")] | None, MAY_DIFFER] = (
        None
    )
    """Steps to trace into output/profile, as 10:12, for Perfetto or TensorBoard."""
    compute_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], OnResume("compute_dtype"), TRAINING
    ] = "auto"
    """Arithmetic of the networks. auto is float32 on a CPU, float16 on a GPU without bfloat16 (T4,
    V100), bfloat16 elsewhere. 16 bits halve the memory of frozen weights, but not of trained
    parameters. float32 is multiplied as float32 on every device; the environment variable
    JAX_DEFAULT_MATMUL_PRECISION=tensorfloat32 trades precision for speed on a GPU."""
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # loses nothing
    """Dtype of the files for other programs: LoRAs, new tokens and the trained parameters of a
    model; 16 bits halve the files. Checkpoints are not affected."""

    @property
    def mode(self) -> Mode:
        """The facts about train.mode."""
        return MODES[self.train.mode]

    @property
    def fully_trained(self) -> tuple[str, ...]:
        """The components that the run trains completely."""
        own = self.mode.fully_trained
        return (*own, *self._text_encoders) if self.mode.prompted and own else own

    @property
    def lora_components(self) -> tuple[str, ...]:
        """The components that get a LoRA; none in other modes."""
        if not self.mode.adapters:
            return ()
        return ("unet", *self._text_encoders)

    @property
    def _text_encoders(self) -> tuple[str, ...]:
        """The text encoders that the options say to train."""
        names = ("text_encoder", "text_encoder_2")
        return tuple(name for name in names if getattr(self.train, name))

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Config":
        problems = self._idle_options()
        if self.optim.method == "schedule_free" and self.train.ema_decay is not None:
            problems.append("train.ema_decay with optim.method schedule_free, which has a mean")
        if self.optim.method == "schedule_free" and self.lora.max_norm is not None:
            problems.append("lora.max_norm with optim.method schedule_free, whose mean it misses")
        if self.optim.lora_plus != 1 and not self.mode.adapters:
            problems.append(f"optim.lora_plus has no meaning in train.mode {self.train.mode}")
        held = (self.data.held_out, self.data.held_out_share, self.data.held_out_base)
        if self.validation.patience and not (self.validation.every and any(held[:2])):
            problems.append(
                "validation.patience without validation.every and data.held_out or held_out_share"
            )
        if self.train.batch_size % self.train.accumulate:
            problems.append(
                f"train.batch_size {self.train.batch_size} is not divisible by "
                f"train.accumulate {self.train.accumulate}"
            )
        if self.validation.every and not any(held):
            problems.append(
                "validation.every without data.held_out, data.held_out_share or data.held_out_base"
            )
        if self.mesh.fsdp > 1 and self.fully_trained:
            problems.append(
                f"mesh.fsdp {self.mesh.fsdp} divides frozen weights alone: in train.mode "
                f"{self.train.mode} each device would still hold all trained weights, their mean "
                "and the optimizer's state; take mesh.fsdp 1, and optim.method adamw8bit for memory"
            )
        problems += self._uncounted_epochs()
        if self.data.stream and self.tokens.names:
            problems.append("tokens.names with data.stream: which captions hold them is not known")
        if self.profile:
            first, last = map(int, self.profile.split(":"))
            if first > last:
                problems.append(f"profile {self.profile} ends before it begins; {last}:{first}?")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _uncounted_epochs(self) -> list[str]:
        """Returns problems of options in epochs with a stream, whose size is unknown."""
        given = {
            "train.epochs": (self.train.epochs, "train.steps"),
            "checkpoint.every_epochs": (self.checkpoint.every_epochs, "checkpoint.every"),
            "sample.every_epochs": (self.sample.every_epochs, "sample.every"),
        }
        return [
            f"{name} cannot be used with data.stream, whose size is unknown: set {in_steps}"
            for name, (value, in_steps) in given.items()
            if self.data.stream and value is not None
        ]

    def _idle_options(self) -> list[str]:
        """Returns problems of options that have no effect, or no sensible one, in the mode."""
        mode, trains_text = self.train.mode, self.mode.text_encoder and self.mode.fully_trained
        problems = [
            f"model.from_scratch has {name}, which train.mode {mode} does not train"
            + (f" (train.{name} does)" if trains_text and name.startswith("text_encoder") else "")
            for name in self.model.from_scratch
            if name not in self.fully_trained
        ]
        trains_nothing = not self.mode.fully_trained and not self.mode.adapters
        if trains_nothing and not self.tokens.names:
            problems.append(f"train.mode {mode} trains tokens.names: there are none")
        problems += [f"{name} has no meaning in train.mode {mode}" for name in self._idle()]
        return problems

    def _idle(self) -> list[str]:
        """Returns the options that were set and that the mode does not read."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        dotted = [
            f"{name}.{option}"
            for name, section in sections.items()
            if isinstance(section, Section)
            for option in changed(section)
        ]
        unmet = {
            name for name, need in marks(type(self), Needs).items() if not need.is_met(self.mode)
        }
        return [name for name in dotted if unmet & {name, name.partition(".")[0]}]


def to_dict(config: Config) -> JsonObject:
    """Returns the config as plain values, as config.yaml holds it."""
    return config.model_dump(mode="json")
