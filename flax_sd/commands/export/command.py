"""The export command: writes a run's LoRA, tokens or model for other tools."""

import math

from flax_sd.commands.export.embedding import write_tokens
from flax_sd.commands.export.lora import LoRAForm, write_lora
from flax_sd.commands.export.model import write_model
from flax_sd.config.commands import ExportOptions
from flax_sd.config.section import changed
from flax_sd.errors import UserError
from flax_sd.run_folder.artifacts import Source as Exported
from flax_sd.run_folder.artifacts import find_source
from flax_sd.system.exit_status import DONE
from flax_sd.system.progress import Progress

LORA_FLAGS = ("model", "revision", "variant", "strength")  # for LoRAs alone


def main(options: ExportOptions) -> int:
    """Writes what is asked for; returns the exit status.

    Raises:
      UserError: there is nothing to export, it does not fit, or --out is not free.
    """
    progress = Progress()
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
