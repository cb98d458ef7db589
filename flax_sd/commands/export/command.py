"""The export command: writes a run's LoRA, tokens or model for other tools."""

import math
from collections.abc import Sequence
from typing import Literal

import tyro

from flax_sd.commands.export.embedding import write_tokens
from flax_sd.commands.export.lora import LoRAForm, write_lora
from flax_sd.commands.export.model import write_model
from flax_sd.config import Section, flags
from flax_sd.config.section import Positive, Source, UserPath, changed
from flax_sd.errors import UserError
from flax_sd.generation.options import Dtype
from flax_sd.run_folder.artifacts import Source as Exported
from flax_sd.run_folder.artifacts import find_source
from flax_sd.system.exit_status import DONE
from flax_sd.system.progress import Progress

LORA_FLAGS = ("model", "revision", "variant", "strength")  # for LoRAs alone


class ExportOptions(Section):
    """Writes a run's LoRA, new tokens or model for other tools."""

    run: tyro.conf.Positional[UserPath]
    """A run's folder, or a LoRA file."""
    to: Literal["diffusers", "kohya", "peft", "merged"]
    """kohya (web UIs) or peft (diffusers): a LoRA file. merged: the whole model as a diffusers
    folder, with the LoRA merged into its weights. diffusers: the same, for a run that trained the
    whole model. A run of mode textual_inversion: kohya, for its tokens."""
    out: UserPath
    """The file or folder to write. It replaces an earlier export, but no other file."""
    model: Source | None = None
    """The base model of a LoRA file: a folder or hub id; by default the run's."""
    step: Literal["last", "best"] = "last"
    """The state of a run: after its last step, or with the lowest val_loss."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """Variant of the model's weight files, such as fp16."""
    strength: float = 1.0
    """Factor of the LoRA."""
    bake: Positive | None = None
    """Write the closest plain LoRA of this rank, for programs without DoRA."""
    dtype: Dtype = "auto"
    """Dtype of the written tensors; auto is that of the LoRA file or the model's UNet."""


def main(args: Sequence[str]) -> int:
    """Runs `flax-sd export RUN --to FORMAT --out PATH [--flag value …]`.

    Raises:
      UserError: there is nothing to export, it does not fit, or --out is not free.
    """
    options, progress = flags.read_flags(ExportOptions, "export", args), Progress()
    source = find_source(
        options.run, options.model, options.revision, options.variant, step=options.step
    )
    _check(options, source)
    tokens_only = source.lora is None and bool(source.tokens)
    if tokens_only:
        written = write_tokens(source.tokens, options.out)
    elif options.to in ("kohya", "peft"):
        form = LoRAForm(options.to, options.strength, options.dtype, options.bake)
        written = write_lora(source, form, options.out, progress)
    else:
        written = write_model(source, options.to, options.out, options.strength, options.dtype)
    progress.stage("written", str(written))
    if source.tokens and not tokens_only:
        files = ", ".join(map(str, source.tokens.values()))
        progress.say(f"its new tokens are separate files, which every tool can read: {files}")
    return DONE


def _check(options: ExportOptions, source: Exported) -> None:
    problems = []
    if source.config is not None and not source.config.mode.captioned:
        problems.append(
            f"{source.model} is a diffusers folder already, the only format of such a model"
        )
    if not math.isfinite(options.strength):
        problems.append(f"--strength is {options.strength}: it must be a finite number")
    if source.lora is None and source.tokens:
        if options.to != "kohya":
            files = ", ".join(map(str, source.tokens.values()))
            problems.append(
                f"{options.run} trained only new tokens: --to kohya writes them as sd-scripts "
                f"does; diffusers and web UIs read {files} as they are"
            )
    elif source.lora is None and options.to in ("kohya", "peft"):
        problems.append(
            f"{options.run} trained the whole model, so there is no LoRA: use --to diffusers"
        )
    if options.bake and options.to not in ("kohya", "peft"):
        problems.append("--bake is for --to kohya and peft: a whole model does not need it")
    if source.lora is None:
        idle = [name for name in changed(options) if name in LORA_FLAGS]
        problems += [f"--{name} is for a LoRA, and {options.run} trained none" for name in idle]
        if source.tokens and options.dtype != "auto":
            problems.append("--dtype is for LoRAs and models: new tokens are written as they are")
    if problems:
        raise UserError("\n  ".join(problems))
