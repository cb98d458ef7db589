"""The sampling command for an unconditional model, whose images have no prompts."""

from collections.abc import Mapping

from flax_sd import samplers
from flax_sd.config.section import changed
from flax_sd.errors import UserError, all_of
from flax_sd.files.json_values import JsonObject
from flax_sd.generation.batches import PlannedImage
from flax_sd.generation.options import SampleOptions
from flax_sd.generation.prompts import Row, Settings
from flax_sd.pipelines.ddpm import sample_size, sampler_config, train_steps
from flax_sd.weights.model_files import ModelFiles

IDLE = (
    *("prompt", "prompts", "negative_prompt", "guidance_scale", "clip_skip"),
    *("max_token_length", "lora", "embedding", "vae"),
    *("refiner", "refiner_start"),
)


def faults(options: SampleOptions) -> list[str]:
    """Returns a sentence for each flag that is only for prompts."""
    idle = [name for name in changed(options) if name in IDLE]
    return [
        f"--{name.replace('_', '-')} has no meaning: {options.model} takes no prompts"
        for name in idle
    ]


def row(options: SampleOptions) -> Row:
    """Returns the single row of the command."""
    return Row(prompt="", **{name: getattr(options, name) for name in Settings.model_fields})


def resolve(row: Row, files: ModelFiles, scheduler: JsonObject) -> Row:
    """Returns the row with size and steps, checked against the model's configs.

    Raises:
      UserError: the model is incomplete, or does not support the row; all problems are named.
    """
    config, problems = files.network_config("unet"), []
    height, width = sample_size(files.config("unet"))
    size = {"height": row.height or height, "width": row.width or width}
    stride = 2 ** (len(config.block_out_channels) - 1)
    for name, side in size.items():
        if side % stride:
            problems.append(f"{name} is {side}: should be a multiple of {stride} for this model")
    steps = row.steps or train_steps(scheduler)
    try:
        samplers.from_config(sampler_config(scheduler, row.sampler), steps)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError(all_of(problems))
    return row.model_copy(update={**size, "steps": steps})


def record(image: PlannedImage, common: Mapping[str, object], sampler: str) -> JsonObject:
    """Returns an image's line of metadata.jsonl."""
    row = image.row
    return {
        "file_name": image.name,
        "seed": image.seed,
        "width": row.width,
        "height": row.height,
        "steps": row.steps,
        "sampler": sampler,
        **common,
    }
