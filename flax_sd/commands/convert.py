"""flax-sd convert: writes a model as a folder or as a single file."""

import pathlib

from flax_sd.config.commands import ConvertOptions
from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.system.exit_status import DONE
from flax_sd.system.progress import Progress
from flax_sd.weights.conversion import Conversion
from flax_sd.weights.destination import check_free, check_name, make_parents
from flax_sd.weights.model_files import ModelFiles

_MB = 10**6  # bytes


def main(options: ConvertOptions) -> int:
    """Writes the model; returns the exit status.

    Raises:
      UserError: SOURCE is no whole model or damaged, or OUT is not free or cannot be written.
    """
    progress, out = Progress(), options.out
    check_name(out)
    check_free(out, "OUT")
    files = _find(options)
    _check_apart(files, out)
    dtype = None if options.dtype == "auto" else options.dtype
    conversion = Conversion(files, _scheduler(files, options), dtype)
    make_parents(out)
    total = conversion.size()
    _write(conversion, out, total // _MB, progress)
    progress.stage("written", f"{out}, {files.template}, {total / 1e6:.1f} MB")
    return DONE


def _write(conversion: Conversion, out: pathlib.Path, total: int, progress: Progress) -> None:
    """Writes the model, and shows how many MB of it are."""
    written = 0
    with progress.loop(total, name="MB") as display:

        def told(size: int) -> None:
            nonlocal written
            written += size
            if display.done < written // _MB < total:  # the last update is after all is written
                display.update(written // _MB)

        conversion._replace(told=told).write(out)
        display.update(total)


def _find(options: ConvertOptions) -> ModelFiles:
    """Finds the model, and checks that it is a whole one."""
    try:
        files = ModelFiles.find(
            options.source,
            options.revision,
            options.variant,
            vae=options.vae,
            config=options.config,
            ema=options.ema,
        )
    except UserError as error:
        raise UserError(_with_flag(error)) from error
    files.check_kind()
    return files


def _scheduler(files: ModelFiles, options: ConvertOptions) -> JsonObject:
    try:
        return files.scheduler(options.prediction_type, zero_snr=options.zero_snr)
    except UserError as error:
        raise UserError(_with_flag(error)) from error


def _with_flag(error: UserError) -> str:
    """Returns a message; where it begins with the name of an option, as that is typed."""
    first, space, rest = str(error).partition(" ")
    name = first.removesuffix(":")
    if name in ConvertOptions.model_fields:
        first = f"--{first.replace('_', '-')}"
    return first + space + rest


def _check_apart(files: ModelFiles, out: pathlib.Path) -> None:
    """Checks that writing does not replace what is read.

    Raises:
      UserError: it would.
    """
    written = out.resolve()
    for component in files.kind.networks:
        for file in files.files(component):
            if file.resolve().is_relative_to(written):
                raise UserError(f"OUT {out} is or holds SOURCE {files.folder}: name another OUT")
