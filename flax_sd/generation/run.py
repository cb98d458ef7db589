"""The sampling command: from prompts to a folder of images, which is a data set."""

from contextlib import nullcontext

import jax
import numpy as np
from jaxtyping import Float, UInt8

from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.generation.batches import Batch
from flax_sd.generation.job import STEPS, Job, prepare
from flax_sd.generation.options import SampleOptions
from flax_sd.generation.refiner import Refined
from flax_sd.pipelines.ddpm import DDPM
from flax_sd.pipelines.stable_diffusion import StableDiffusion
from flax_sd.system import memory, sharding
from flax_sd.system.exit_status import DONE, STOPPED
from flax_sd.system.progress import COMPILES, Progress
from flax_sd.weights.model import Model

SMALLER = ("--batch-size 1", "a smaller --height and --width", "--dtype bfloat16 or float16")


def run(options: SampleOptions, progress: Progress | None = None) -> int:
    """Generates the missing images; returns the exit status: 0, or 130 after Ctrl-C.

    Raises:
      UserError: the flags, the prompts, the model or the folder are not valid.
    """
    progress = progress or Progress()
    job = prepare(options)
    gallery = job.gallery
    gallery.make()
    missing = len(job.records) - len(gallery.done)
    there = f", {len(gallery.done)} already there" if gallery.done else ""
    progress.stage("found", f"{_images(len(job.records))} to generate{there}")
    try:
        if missing:
            with memory.explain_out_of_memory(lambda: SMALLER):
                sd = _load(job)
                progress.stage("loaded", f"{options.model} in {job.dtype}, {_devices()}")
                _draw(sd, job, progress, missing)
    except KeyboardInterrupt:
        left = len(job.records) - len(gallery.done)
        progress.say(f"stopped: {_images(left)} left. Run the same command again to resume.")
        return STOPPED
    finally:
        gallery.write_metadata()
    progress.stage("written", f"{_images(len(job.records))} in {gallery.folder}")
    return DONE


def _load(job: Job) -> StableDiffusion | Refined | DDPM:
    model = Model.load(job.files, job.dtype, [job.files.kind], job.scheduler)
    sd = StableDiffusion(model) if model.tokenizers else DDPM(model)
    sd.distribute(sharding.make_mesh(-1, 1))
    if isinstance(sd, StableDiffusion):
        _attach(sd, job)
        return sd if job.refiner is None else Refined(sd, job.refiner, job.dtype)
    return sd


def _attach(sd: StableDiffusion, job: Job) -> None:
    for number, lora in enumerate(job.loras):
        sd.add_lora(lora.path, lora.scale, f"{number}: {lora.path}")
    for embedding in job.embeddings:
        sd.add_embedding(embedding.path, embedding.token)


def _draw(sd: StableDiffusion | Refined | DDPM, job: Job, progress: Progress, missing: int) -> None:
    """Generates every batch with a missing image; the batches do not depend on what is there."""
    announced: set[str] = set()
    with progress.loop(missing) as shown:
        for batch in job.batches:
            wanted = [p.name not in job.gallery.done for p in batch.images]
            if not any(wanted):
                continue
            name = _first_of(batch, job)
            with nullcontext() if name in announced else progress.work(name, COMPILES):
                pixels = _pixels(sd, batch)
            announced.add(name)
            for image, new, drawn in zip(batch.images, wanted, pixels, strict=False):
                if new:
                    job.gallery.add(drawn, job.records[image.name])
            done = shown.done + sum(wanted)
            shown.update(done, f"{shown.rate(done):.2f} images/s")


def _first_of(batch: Batch, job: Job) -> str:
    """Names the generation of the first images that need the programs that the batch needs.

    Samplers share one if both or none draw noise at their steps.
    """
    record = job.records[batch.images[0].name]
    sampler = samplers.by_name(record["sampler"], job.scheduler)
    noisy = samplers.from_config(sampler, record["steps"]).stochastic
    kind = "{width} x {height}".format_map(record) + (", with noise at each step" if noisy else "")
    return f"generating the first images of {kind}, {batch.size} at a time, with {job.files.source}"


def _pixels(sd: StableDiffusion | Refined | DDPM, batch: Batch) -> UInt8[np.ndarray, "b h w 3"]:
    """Generates the images of a batch, without those that pad it.

    Raises:
      UserError: the numbers overflowed, which would give a black image.
    """
    images = batch.images
    drawn = _unprompted(sd, batch) if isinstance(sd, DDPM) else _prompted(sd, batch)
    for image, values in zip(images, drawn[: len(images)], strict=True):
        if not np.isfinite(values).all():
            raise UserError(
                f"{image.name} is NaN or infinite, which would give a black image: "
                "try --dtype float32, a smaller --guidance-scale or another LoRA scale"
            )
    return (drawn[: len(images)] * 255).round().astype(np.uint8)


def _prompted(sd: StableDiffusion | Refined, batch: Batch) -> Float[np.ndarray, "b h w 3"]:
    images, row = batch.images, batch.images[0].row
    padding = batch.size - len(images)
    return sd.generate(
        [image.row.prompt for image in images] + [""] * padding,
        [image.row.negative_prompt for image in images] + [""] * padding,
        num_inference_steps=row.steps or STEPS,
        guidance_scale=row.guidance_scale,
        sampler=row.sampler,
        seed=[image.seed for image in images] + [0] * padding,
        height=row.height,
        width=row.width,
        output="float",
        clip_skip=row.clip_skip,
        max_token_length=row.max_token_length,
    )


def _unprompted(model: DDPM, batch: Batch) -> Float[np.ndarray, "b h w 3"]:
    images, row = batch.images, batch.images[0].row
    return model.generate(
        batch.size,
        num_inference_steps=row.steps,
        sampler=row.sampler,
        seed=[image.seed for image in images] + [0] * (batch.size - len(images)),
        height=row.height,
        width=row.width,
        output="float",
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _devices() -> str:
    count, kind = len(jax.devices()), jax.devices()[0].device_kind
    return f"{count} x {kind}" if count > 1 else kind
