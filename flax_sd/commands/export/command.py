"""The export command: a run's LoRA or model, for other tools."""

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

FOR_LORAS = ("model", "revision", "variant", "strength")  # flags that nothing else reads


class ExportOptions(Section):
    """Writes what a run has learned for other tools."""

    run: tyro.conf.Positional[UserPath]
    """A run's folder, or a LoRA file."""
    to: Literal["diffusers", "kohya", "peft", "merged"]
    """kohya (web UIs) or peft (diffusers): a LoRA file. merged: the whole model as a diffusers
    folder, with the LoRA inside its weights; diffusers is the same, and what a run that trained the
    whole model calls it. Of mode textual_inversion, kohya: its tokens."""
    out: UserPath
    """The file or folder to write; an earlier export is replaced, nothing else is."""
    model: Source | None = None
    """What a LoRA file belongs to: a folder or hub id; a run knows its own."""
    step: Literal["last", "best"] = "last"
    """Of a run: the state after its last step, or the one with the least val_loss."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """The model's weight files to take, such as fp16."""
    strength: float = 1.0
    """What the LoRA is scaled by."""
    bake: Positive | None = None
    """Write the plain LoRA of this rank that comes nearest, for programs that know no DoRA."""
    dtype: Dtype = "auto"
    """Of the tensors that are written; auto is what the LoRA file, or the model's UNet, has."""


def main(args: Sequence[str]) -> int:
    """`flax-sd export RUN --to FORMAT --out PATH [--flag value …]`.

    Raises:
      UserError: there is nothing to export, it does not fit, or something else is in the place.
    """
    options, progress = flags.read_flags(ExportOptions, "export", args), Progress()
    source = find_source(
        options.run, options.model, options.revision, options.variant, step=options.step
    )
    _check(options, source)
    alone = source.lora is None and bool(source.tokens)
    if alone:
        written = write_tokens(source.tokens, options.out)
    elif options.to in ("kohya", "peft"):
        form = LoRAForm(options.to, options.strength, options.dtype, options.bake)
        written = write_lora(source, form, options.out, progress)
    else:
        written = write_model(source, options.to, options.out, options.strength, options.dtype)
    progress.stage("written", str(written))
    if source.tokens and not alone:
        files = ", ".join(map(str, source.tokens.values()))
        progress.say(f"its new tokens are files of their own, as every tool reads them: {files}")
    return DONE


def _check(options: ExportOptions, source: Exported) -> None:
    problems = []
    if source.config is not None and not source.config.mode.captioned:
        problems.append(f"{source.model} is a diffusers folder already, the only form there is")
    if not math.isfinite(options.strength):
        problems.append(f"--strength is {options.strength}: should be a number")
    if source.lora is None and source.tokens:
        if options.to != "kohya":
            files = ", ".join(map(str, source.tokens.values()))
            problems.append(
                f"{options.run} trained new tokens alone: --to kohya writes them as sd-scripts "
                f"does; diffusers and web UIs read {files} as they are"
            )
    elif source.lora is None and options.to in ("kohya", "peft"):
        problems.append(
            f"{options.run} trained the whole model, so there is no LoRA: take --to diffusers"
        )
    if options.bake and options.to not in ("kohya", "peft"):
        problems.append("--bake is for --to kohya and peft: a whole model needs none")
    if source.lora is None:
        idle = [name for name in changed(options) if name in FOR_LORAS]
        problems += [f"--{name} is for a LoRA, and {options.run} trained none" for name in idle]
        if source.tokens and options.dtype != "auto":
            problems.append("--dtype is for LoRAs and models: new tokens are written as they are")
    if problems:
        raise UserError("\n  ".join(problems))
