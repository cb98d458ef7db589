"""Samplers as pure functions over tables: `from_config`, then `init`, `scale_input` and `step`.

A sampler is named as in diffusers' scheduler_config.json, and gives diffusers' numbers.
"""

import inspect
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_sd.diffusion import diffusers_corrections
from flax_sd.diffusion.scheduler_config import explicit_fields, read_config
from flax_sd.errors import UserError, listed
from flax_sd.files.json_values import JsonObject
from flax_sd.samplers.names import SCHEDULES, Named, find, full_name, web_names
from flax_sd.samplers.registry import SAMPLERS, Entry
from flax_sd.samplers.sampler import Carry, Sampler, run_steps
from flax_sd.samplers.torch_noise import StepNoise, TorchGenerator, initial_noise, step_noise

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "Carry",
    "Named",
    "Sampler",
    "StepNoise",
    "TorchGenerator",
    "by_name",
    "config_of",
    "find",
    "from_config",
    "full_name",
    "initial_noise",
    "run_steps",
    "step_defaults",
    "step_noise",
    "web_names",
]


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
    entry = _entry(scheduler_config)
    options = _read_options(entry, step_options)
    config = read_config(entry.config_class, scheduler_config)
    with np.errstate(all="ignore"):  # a sampler refuses weights that are not finite
        return entry.make(config, num_inference_steps, **options)


def step_defaults(scheduler_config: Mapping[str, object]) -> dict[str, int | float]:
    """Returns the options that the sampler's steps have, with their defaults.

    Args:
      scheduler_config: the parsed file.

    Raises:
      UserError: the class is not supported.
    """
    parameters = inspect.signature(_entry(scheduler_config).make).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _entry(scheduler_config: Mapping[str, object]) -> Entry:
    """Returns the first entry of the config's class."""
    classes = {entry.class_name: entry for entry in reversed(tuple(SAMPLERS.values()))}
    name = scheduler_config.get("_class_name")
    if not isinstance(name, str) or name not in classes:
        known = ", ".join(reversed(classes))
        raise UserError(f"scheduler config has _class_name {name!r}: supported are {known}")
    return classes[name]


def _read_options(entry: Entry, step_options: Mapping[str, object]) -> dict[str, int | float]:
    """Returns the options in the types of their defaults."""
    defaults = step_defaults({"_class_name": entry.class_name})
    problems = []
    for option, value in step_options.items():
        if option not in defaults:
            problems.append(f"{option} is unknown: it has {', '.join(defaults) or 'none'}")
        elif not isinstance(value, numbers.Real):
            problems.append(f"{option} is {value!r}: should be a number")
    if problems:
        raise UserError(listed(f"step options of {entry.class_name}:", problems))
    given: Mapping[str, Any] = step_options
    return {option: type(defaults[option])(value) for option, value in given.items()}


def by_name(name: str, checkpoint_config: Mapping[str, object]) -> JsonObject:
    """Returns a checkpoint's scheduler config for another class: `Class.from_config(other.config)`.

    Keeps the fields that the file sets and the class reads; the rest are the class's defaults. So
    SD 1.5's "ddim" has SD's betas and offset, and `set_alpha_to_one` from the file. What the name
    says besides the class beats the file.

    Args:
      name: of a sampler, of a schedule, or of both, as `find` reads it.
      checkpoint_config: the parsed scheduler_config.json.

    Raises:
      UserError: there is no sampler of that name.
    """
    found = find(name)
    config = explicit_fields(checkpoint_config)
    if found.sampler is None:
        config["_class_name"] = checkpoint_config.get("_class_name")
    else:
        entry = SAMPLERS[found.sampler]
        config |= {"_class_name": entry.class_name, **entry.config}
    if found.schedule is not None:
        config |= SCHEDULES[found.schedule].config
    return config


def config_of(
    sampler: str | Mapping[str, object] | None, checkpoint_config: Mapping[str, object]
) -> JsonObject:
    """Returns what `from_config` takes: the checkpoint's config, by name, or the given one.

    Args:
      sampler: None for the checkpoint's own, a name as `find` reads it, or a config to take as it
        is.
      checkpoint_config: the parsed scheduler_config.json.

    Raises:
      UserError: there is no sampler of that name.
    """
    if sampler is None:
        return diffusers_corrections.scheduler_in_use(checkpoint_config)
    if isinstance(sampler, str):
        return by_name(sampler, diffusers_corrections.scheduler_to_convert(checkpoint_config))
    return dict(sampler)
