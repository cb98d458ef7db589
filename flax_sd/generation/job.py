"""Checks a sampling command before any weights are read."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

from flax_sd import samplers
from flax_sd.diffusion import diffusers_corrections
from flax_sd.embeddings import files as embedding_files
from flax_sd.embeddings.files import embedding_hash
from flax_sd.errors import UserError, all_of
from flax_sd.files.json_values import JsonObject
from flax_sd.generation import refiner, sources
from flax_sd.generation import unconditional as unprompted
from flax_sd.generation.batches import Batch, PlannedImage, images_of, make_batches
from flax_sd.generation.gallery import Gallery
from flax_sd.generation.options import SampleOptions
from flax_sd.generation.prompts import Row, Settings, faults, read_rows
from flax_sd.generation.refiner import Refiner
from flax_sd.generation.seeds import settled_rows
from flax_sd.lora.formats.read import lora_hash
from flax_sd.models.tokenizer import TEXT
from flax_sd.system.precision import resolve_dtype
from flax_sd.weights import hub, identity
from flax_sd.weights.family import DDPM
from flax_sd.weights.model_files import ModelFiles, find_vae

T = TypeVar("T")
STEPS = 50  # denoising steps by default
LATENTS = 64 * 64  # of a device's batch on a CPU: one image of 512 pixels; a GPU takes four
PIXELS = 8 * 8  # of a latent
MAX_IMAGES_PER_DEVICE = 8  # in a batch, unless --batch-size says more


class Job(NamedTuple):
    """The images to generate, and what they need.

    Attributes:
      files: the files of the model, with the VAE that the flags name.
      scheduler: the model's scheduler config, with the changes by flags.
      records: file name -> the image's settings, its line of metadata.jsonl.
    """

    files: ModelFiles
    dtype: str
    loras: list[sources.LoRASource]
    embeddings: list[sources.EmbeddingSource]
    scheduler: JsonObject
    batches: list[Batch]
    records: dict[str, JsonObject]
    gallery: Gallery
    refiner: Refiner | None = None


class Found(NamedTuple):
    """The rows and files that the flags name."""

    rows: list[Row]
    loras: list[sources.LoRASource]
    embeddings: list[sources.EmbeddingSource]
    files: ModelFiles
    refiner: Refiner | None = None


def prepare(options: SampleOptions) -> Job:
    """Reads prompts, configs and the folder of images.

    Raises:
      UserError: something is missing, not valid, or would be overwritten; all problems are named.
    """
    found = _find(options)
    scheduler = _scheduler(options, found.files)
    asked = settled_rows(found.rows, options.out)
    if found.files.kind == DDPM:
        rows = [unprompted.resolve(row, found.files, scheduler) for row in asked]
        record, pixels = unprompted.record, 1
    else:
        found.files.check_kind([found.files.kind])
        rows = _resolve(asked, found.files, scheduler)
        if found.refiner is not None:
            refiner.check_rows(found.refiner, rows)
        record, pixels = _record, PIXELS
    images = images_of(rows)
    common = _common(options, found)
    records = {
        image.name: record(image, common, samplers.full_name(image.row.sampler, scheduler))
        for image in images
    }
    gallery = Gallery(options.out, records)
    devices = len(jax.devices())
    size = options.batch_size or usual_batch(rows, devices, pixels)
    return Job(
        found.files,
        common["dtype"],
        found.loras,
        found.embeddings,
        scheduler,
        make_batches(images, size, devices),
        records,
        gallery,
        found.refiner,
    )


def usual_batch(rows: list[Row], devices: int, pixels: int = PIXELS) -> int:
    """Returns the images that fit the devices: on a CPU, one of 512 pixels.

    Args:
      pixels: pixels of the image for each pixel of the UNet.
    """
    latents = max((row.height or 8) * (row.width or 8) // pixels for row in rows)
    room = LATENTS * (1 if jax.default_backend() == "cpu" else 4)
    return devices * min(MAX_IMAGES_PER_DEVICE, max(1, room // latents))


def _find(options: SampleOptions) -> Found:
    problems: list[str] = []
    worded = options.prompt is not None or options.prompts is not None
    rows = _gather(problems, _rows, options) if worded else None
    loras = [_gather(problems, sources.parse_lora, text) for text in options.lora]
    embeddings = [_gather(problems, sources.parse_embedding, text) for text in options.embedding]
    problems += [f"--{_flag(what)}" for what in faults(options.model_dump())]
    if not 0 < options.refiner_start < 1:
        start = options.refiner_start
        problems.append(f"--refiner-start is {start}: should be above 0 and below 1, as 0.8")
    if options.batch_size is not None and options.batch_size < 1:
        problems.append(f"--batch-size is {options.batch_size}: should be 1 or more")
    # The hub is asked only for a command that has no other mistake.
    folder = vae = None
    if not problems or identity.is_local(options.model):
        model = options.model, options.revision, options.variant
        folder = _gather(problems, hub.resolve, *model)
    own = None if folder is None else ModelFiles(folder, variant=options.variant)
    if own is not None and own.kind == DDPM:
        rows, problems = [unprompted.row(options)], problems + unprompted.faults(options)
    elif not worded:
        rows = _gather(problems, _rows, options)
    if options.vae is not None and (not problems or identity.is_local(options.vae)):
        vae = _gather(problems, find_vae, options.vae, options.variant)
    if problems:
        raise UserError(all_of(problems))
    assert rows is not None and folder is not None
    there = [lora for lora in loras if lora is not None]
    found = [embedding for embedding in embeddings if embedding is not None]
    files = ModelFiles(folder, source=options.model, variant=options.variant, vae=vae)
    return Found(rows, there, found, files, refiner.find(options, files))


def _gather(problems: list[str], read: Callable[..., T], *args: Any) -> T | None:
    """Returns the result; or adds the error to `problems` and returns None."""
    try:
        return read(*args)
    except UserError as error:
        problems.append(str(error))
        return None


def _flag(sentence: str) -> str:
    """Writes the setting's name at the beginning of a sentence as its flag."""
    name, space, rest = sentence.partition(" ")
    return name.replace("_", "-") + space + rest


def _rows(options: SampleOptions) -> list[Row]:
    """Returns the rows of --prompt or --prompts."""
    defaults = {name: getattr(options, name) for name in Settings.model_fields}
    if (options.prompt is None) == (options.prompts is None):
        both = "both are given" if options.prompt is not None else "neither is given"
        raise UserError(f"give either --prompt or --prompts FILE: {both}")
    if options.prompts is not None:
        return read_rows(options.prompts, defaults)
    return [Row.model_validate({"prompt": options.prompt, **defaults})]


def _scheduler(options: SampleOptions, files: ModelFiles) -> JsonObject:
    try:
        return files.scheduler(options.prediction_type, zero_snr=options.zero_snr)
    except UserError as error:
        raise UserError(f"--{_flag(str(error))}") from error


def _resolve(rows: list[Row], files: ModelFiles, scheduler: Mapping[str, object]) -> list[Row]:
    """Returns rows with sizes and steps, checked against the model's configs.

    Raises:
      UserError: the model is incomplete, or does not support a row; all problems are named.
    """
    rows = [row.model_copy(update={"steps": row.steps or STEPS}) for row in rows]
    step = files.network_config("vae").pixels_per_latent
    size = diffusers_corrections.sample_size(files.config("unet"))
    height, width = (side * step for side in size)
    layers = min(files.network_config(n).num_hidden_layers for n in files.kind.text_encoders)
    layers -= files.kind.text_rule.skip
    problems: dict[str, None] = {}  # each once, in order
    for name, steps in dict.fromkeys((row.sampler, row.steps or STEPS) for row in rows):
        try:
            samplers.from_config(samplers.config_of(name, scheduler), steps)
        except UserError as error:
            problems[str(error)] = None
    for row in rows:
        if row.clip_skip > layers:
            found = f"clip_skip is {row.clip_skip}: this text encoder has {layers} layers to skip"
            problems[found] = None
    if problems:
        raise UserError(all_of(list(problems)))
    sizes = [{"height": row.height or height, "width": row.width or width} for row in rows]
    return [row.model_copy(update=size) for row, size in zip(rows, sizes, strict=True)]


def _common(options: SampleOptions, found: Found) -> JsonObject:
    """Returns the settings that all images share: model, VAE and LoRAs."""
    files = found.files
    own = ModelFiles(files.folder, variant=files.variant)  # with its own VAE
    overrides = {"prediction_type": options.prediction_type, "zero_snr": options.zero_snr}
    vae = None
    if options.vae is not None:
        vae = f"{identity.display_name(options.vae)} {files.fingerprint(['vae'])}"
    loras = [
        {"name": path.stem, "hash": lora_hash(path), "scale": scale} for path, scale in found.loras
    ]
    return {
        "model": identity.display_name(options.model),
        "model_hash": own.fingerprint(files.kind.networks),
        **({} if files.kind == DDPM else {"vae": vae, "loras": loras, **_embeddings(found)}),
        "dtype": resolve_dtype(options.dtype),
        **{name: value for name, value in overrides.items() if value},
        **refiner.record(found.refiner),
    }


def _embeddings(found: Found) -> JsonObject:
    """Reads the settings of the embeddings from their files; empty if there are none."""
    files = found.files
    widths = {name: files.network_config(name).hidden_size for name in files.kind.text_encoders}
    named = []
    for source in found.embeddings:
        path = embedding_files.locate(source.path)
        token = embedding_files.read(path, widths, source.token).token
        named.append({"token": token, "name": path.stem, "hash": embedding_hash(path)})
    return {"embeddings": named} if named else {}


def _record(image: PlannedImage, common: Mapping[str, object], sampler: str) -> JsonObject:
    row = image.row
    return {
        "file_name": image.name,
        "text": row.prompt,
        "negative_prompt": row.negative_prompt,
        "seed": image.seed,
        "width": row.width,
        "height": row.height,
        "steps": row.steps,
        "guidance_scale": row.guidance_scale,
        "sampler": sampler,
        "clip_skip": row.clip_skip,
        **({"max_token_length": row.max_token_length} if row.max_token_length > TEXT else {}),
        **common,
    }
