"""Samplers as pure functions over tables: `from_config`, then `init`, `scale_input` and `step`.

A sampler is named as in diffusers' scheduler_config.json, and gives diffusers' numbers.
"""

import difflib
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax_sd.diffusion import diffusers_corrections
from flax_sd.diffusion.scheduler_config import explicit_fields
from flax_sd.errors import UserError, listed
from flax_sd.files.json_values import JsonObject
from flax_sd.samplers.methods.ddim import make_ddim
from flax_sd.samplers.methods.ddpm import make_ddpm
from flax_sd.samplers.methods.euler import make_euler
from flax_sd.samplers.methods.euler_ancestral import make_euler_ancestral
from flax_sd.samplers.methods.pndm import make_pndm
from flax_sd.samplers.sampler import Carry, Sampler, run_steps
from flax_sd.samplers.torch_noise import TorchGenerator, initial_noise, step_noise

__all__ = [
    "SAMPLERS",
    "Carry",
    "Sampler",
    "TorchGenerator",
    "by_name",
    "config_of",
    "from_config",
    "initial_noise",
    "run_steps",
    "step_noise",
]


class Entry(NamedTuple):
    """A sampler: its class in diffusers, and its constructor."""

    class_name: str  # diffusers'
    title: str  # web UIs'
    make: Callable[..., Sampler]  # (config, number of steps, keyword-only step options)


SAMPLERS = {
    "ddpm": Entry("DDPMScheduler", "DDPM", make_ddpm),
    "ddim": Entry("DDIMScheduler", "DDIM", make_ddim),
    "pndm": Entry("PNDMScheduler", "PLMS", make_pndm),
    "euler": Entry("EulerDiscreteScheduler", "Euler", make_euler),
    "euler_a": Entry("EulerAncestralDiscreteScheduler", "Euler a", make_euler_ancestral),
}


def from_config(
    scheduler_config: Mapping[str, object], num_inference_steps: int, **step_options: Any
) -> Sampler:
    """Builds the sampler that a scheduler_config.json describes.

    Args:
      scheduler_config: the parsed file; its `_class_name` chooses the sampler.
      num_inference_steps: as diffusers' `set_timesteps`; PNDM calls the network more often.
      **step_options: options of diffusers' `step`, such as eta or s_churn.

    Raises:
      UserError: the class, a field, an option or the number of steps is not supported.
    """
    makers = {entry.class_name: entry.make for entry in SAMPLERS.values()}
    name = scheduler_config.get("_class_name")
    if not isinstance(name, str) or name not in makers:
        known = ", ".join(makers)
        raise UserError(f"scheduler config has _class_name {name!r}: supported are {known}")
    make = makers[name]
    options = _read_options(name, make, step_options)
    return make(scheduler_config, num_inference_steps, **options)


def _read_options(
    name: str, make: Callable[..., Sampler], step_options: Mapping[str, object]
) -> dict[str, float | bool]:
    """Returns the options in the types that `make` declares: its keyword-only parameters."""
    parameters = inspect.signature(make).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    problems = []
    for option, value in step_options.items():
        if option not in defaults:
            problems.append(f"{option} is unknown: it has {', '.join(defaults) or 'none'}")
        elif not isinstance(value, numbers.Real):
            problems.append(f"{option} is {value!r}: should be a number")
    if problems:
        raise UserError(listed(f"step options of {name}:", problems))
    return {option: type(defaults[option])(value) for option, value in step_options.items()}


def by_name(name: str, checkpoint_config: Mapping[str, object]) -> JsonObject:
    """Returns a checkpoint's scheduler config for another class: `Class.from_config(other.config)`.

    Keeps the fields that the file sets and the class reads; the rest are the class's defaults. So
    SD 1.5's "ddim" has SD's betas and offset, and `set_alpha_to_one` from the file.

    Args:
      name: a key of `SAMPLERS`.
      checkpoint_config: the parsed scheduler_config.json.

    Raises:
      UserError: there is no sampler of that name.
    """
    if name not in SAMPLERS:
        near = difflib.get_close_matches(name, SAMPLERS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"there is no sampler {name!r}{hint}: there are {', '.join(SAMPLERS)}")
    return {"_class_name": SAMPLERS[name].class_name, **explicit_fields(checkpoint_config)}


def config_of(
    sampler: str | Mapping[str, object] | None, checkpoint_config: Mapping[str, object]
) -> JsonObject:
    """Returns what `from_config` takes: the checkpoint's config, by name, or the given one.

    Args:
      sampler: None for the checkpoint's own, a key of `SAMPLERS`, or a config to take as it is.
      checkpoint_config: the parsed scheduler_config.json.

    Raises:
      UserError: there is no sampler of that name.
    """
    if sampler is None:
        return diffusers_corrections.scheduler_in_use(checkpoint_config)
    if isinstance(sampler, str):
        return by_name(sampler, diffusers_corrections.scheduler_to_convert(checkpoint_config))
    return dict(sampler)
