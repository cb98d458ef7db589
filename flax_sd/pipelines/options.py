"""Further arguments of `StableDiffusion.generate`, which have diffusers' names."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from flax_sd.errors import UserError
from flax_sd.pipelines.callback import Callback

Pair = tuple[int, int]
SDXL = (  # read by SDXL alone
    "prompt_2",
    "negative_prompt_2",
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
)


class Options(TypedDict, total=False):
    """Further arguments of `StableDiffusion.generate`; one that is left out or None has no effect.

    Attributes:
      clip_skip: last layers of the text encoders to leave out, except for negative prompts.
      max_token_length: tokens to read of each prompt: 75 as in diffusers, or 150 or 225 in chunks
        of 75 for all prompts, as in training with `data.max_token_length`.
      step_options: options of the sampler's steps, such as {"eta": 1.0}.
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
        negative half of guidance, both sizes together; by default those of the other half.
    """

    clip_skip: int | None
    max_token_length: int
    step_options: Mapping[str, object] | None
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


def check(options: Options, *, sdxl: bool) -> None:
    """Checks the names of options.

    Raises:
      TypeError: there is no such argument.
      UserError: it is one of SDXL's, and the model is not.
    """
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"generate() got an unexpected keyword argument {min(unknown)!r}")
    given = [name for name in SDXL if options.get(name) is not None]
    if given and not sdxl:
        raise UserError(f"{', '.join(given)}: only SDXL reads this; the model is another")
