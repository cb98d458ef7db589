"""Further arguments of `StableDiffusion.generate`, which have diffusers' names."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.models.unet_conditions import SCORED, SIZED
from flax_sd.pipelines.sampling_loop import Callback

Pair = tuple[int, int]
XL, BASE, REFINER = "SDXL", "SDXL's base model", "SDXL's refiner"
_READERS = {  # options that not every model reads -> which do
    "prompt_2": BASE,
    "negative_prompt_2": BASE,
    "original_size": XL,
    "crops_coords_top_left": XL,
    "target_size": BASE,
    "negative_original_size": XL,
    "negative_crops_coords_top_left": XL,
    "negative_target_size": BASE,
    "aesthetic_score": REFINER,
    "negative_aesthetic_score": REFINER,
}
_READS = {SIZED: (XL, BASE), SCORED: (XL, REFINER)}  # by the numbers that a UNet is told


class Options(TypedDict, total=False):
    """Further arguments of `StableDiffusion.generate`; one that is left out or None has no effect.

    Attributes:
      clip_skip: last layers of the text encoders to leave out, except for negative prompts.
      max_token_length: tokens to read of each prompt: 75 as in diffusers, or 150 or 225 in chunks
        of 75 for all prompts, as in training with `data.max_token_length`.
      step_options: options of the sampler's steps, such as {"s_churn": 10.0}.
      eta: how much noise DDIM and TCD add, from 0 to 1; by default 0, as in diffusers' pipelines.
      callback: called after each step as callback(step, steps, latents): its number from 1, the
        number of steps, and the latents [b, h, w, c]. What it raises ends the call. The images stay
        the same; the call takes up to a fifth longer.
      guidance_rescale: 0 to 1, how far the guided output gets the deviation of the unguided one:
        against overexposure, for models of v-prediction with zero-terminal SNR (Lin et al. 2023).
      prompt_2: what SDXL's second text encoder reads; by default the same prompts.
      negative_prompt_2: the same for negative prompts.
      original_size: (height, width) in pixels that the image is said to have had, for SDXL; by
        default its own. A small one gives blurred images, as small training images were.
      crops_coords_top_left: (top, left) in pixels of the crop that it is said to be; by default
        (0, 0), which gives centred subjects.
      target_size: (height, width) in pixels that it is said to be enlarged to; by default its own.
      negative_original_size, negative_crops_coords_top_left, negative_target_size: the same for the
        negative half of guidance, both sizes together; by default those of the other half, but for
        the refiner's crop, which is (0, 0).
      aesthetic_score: how beautiful the image is said to be, for SDXL's refiner; by default 6.0.
      negative_aesthetic_score: the same for the negative half of guidance; by default 2.5.
      denoising_start: fraction of the noise that is gone in `latents`, above 0 and below 1: the
        steps before it are left out, and no noise is added.
      denoising_end: fraction of the noise after which to stop, for a refiner that goes on with
        `denoising_start` from what `output="latents"` returns.
    """

    clip_skip: int | None
    max_token_length: int
    step_options: Mapping[str, object] | None
    eta: float | None
    callback: Callback | None
    guidance_rescale: float
    prompt_2: str | Sequence[str] | None
    negative_prompt_2: str | Sequence[str] | None
    original_size: Pair | None
    crops_coords_top_left: Pair | None
    target_size: Pair | None
    negative_original_size: Pair | None
    negative_crops_coords_top_left: Pair | None
    negative_target_size: Pair | None
    aesthetic_score: float | None
    negative_aesthetic_score: float | None
    denoising_start: float | None
    denoising_end: float | None


def step_options(options: Options, scheduler: Mapping[str, object]) -> dict[str, Any]:
    """Returns the options of the sampler's steps.

    Args:
      scheduler: the sampler's config.

    Raises:
      UserError: eta is given, and the sampler does not read it.
    """
    given: dict[str, Any] = dict(options.get("step_options") or {})
    eta = options.get("eta")
    if "eta" in samplers.step_defaults(scheduler):
        return {"eta": 0.0 if eta is None else eta, **given}
    if eta is not None:
        raise UserError(f"eta: {scheduler.get('_class_name')} does not read it; ddim and tcd do")
    return given


def check(options: Options, told: int) -> None:
    """Checks the names of options.

    Args:
      told: numbers that the UNet reads beside pooled text.

    Raises:
      TypeError: there is no such argument.
      UserError: it is one of SDXL's or of its refiner's, and the model is another.
    """
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"generate() got an unexpected keyword argument {min(unknown)!r}")
    known = _READS.get(told, ())
    given = [name for name in _READERS if options.get(name) is not None]
    idle = [name for name in given if _READERS[name] not in known]
    if idle:
        readers = " and ".join(dict.fromkeys(_READERS[name] for name in idle))
        raise UserError(f"{', '.join(idle)}: only {readers} reads this; the model is another")
