"""Reading a scheduler_config.json, the file that says how a diffusers checkpoint adds noise.

A dataclass lists the fields that a scheduler class reads, with that class's defaults. Real files
carry fields of other classes too (SD 1.x gives PNDM a `clip_sample`), which nobody reads: ignored.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pydantic

from flax_sd.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaConfig:
    """What every scheduler class reads, with the defaults that diffusers' classes share.

    These defaults are the DDPM paper's; Stable Diffusion's values come from its files.
    """

    num_train_timesteps: Annotated[int, pydantic.Field(ge=1)] = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(BetaConfig):
    """What `DDPMScheduler`, whose noise the reference trains with, reads besides."""

    rescale_betas_zero_snr: bool = False


Config = TypeVar("Config", bound=BetaConfig)


def explicit_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were set, without the private ones.

    A config taken from a live scheduler lists in `_use_default_values` the fields that have only
    their class's default; diffusers lets another class use its own defaults for these.
    """
    defaults = raw.get("_use_default_values") or ()
    return {k: v for k, v in raw.items() if not k.startswith("_") and k not in defaults}


def read_config(
    cls: type[Config], raw: Mapping[str, Any], unsupported: Mapping[str, Any] | None = None
) -> Config:
    """Builds the frozen dataclass `cls` out of a parsed scheduler_config.json.

    Args:
      cls: its annotations give the allowed types and values.
      raw: the parsed file.
      unsupported: other fields that the scheduler class reads, with that class's defaults.

    Raises:
      UserError: a field is of a wrong type or value, or not supported; all are named.
    """
    fields = explicit_fields(raw)
    problems = [
        f"{name} is {_as_json(fields[name])}: only {_as_json(default)} is supported"
        for name, default in (unsupported or {}).items()
        if name in fields and fields[name] != default
    ]
    names = [field.name for field in dataclasses.fields(cls)]
    known = {name: fields[name] for name in names if name in fields}
    try:  # as JSON: lists become tuples and whole numbers floats, yet nothing else is converted
        config = pydantic.TypeAdapter(cls).validate_json(_as_json(known), strict=True)
    except pydantic.ValidationError as error:
        for item in error.errors():
            name, allowed = str(item["loc"][0]), item["msg"].removeprefix("Input should be ")
            problems.append(f"{name} is {_as_json(fields[name])}: should be {allowed}")
    else:
        if not problems:
            return config
    title = raw.get("_class_name", "")
    lines = "\n  ".join(problems)
    raise UserError(f"scheduler config {title} cannot be used:\n  {lines}")


ZERO_SNR_SAMPLERS = ("DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


def overridden(
    raw: Mapping[str, Any], prediction_type: str | None, *, zero_snr: bool
) -> dict[str, Any]:
    """Returns a scheduler config with another prediction type, or ending in pure noise.

    Args:
      prediction_type: None leaves it as it is.
      zero_snr: rescales the betas and spaces timesteps so that the last is drawn from (Lin et al.
        2023, §3.1 and §3.3); a class that reads no such betas becomes DDIM.

    Raises:
      UserError: zero_snr with "epsilon", where the last timestep tells nothing of the picture.
    """
    changes: dict[str, Any] = {}
    if prediction_type is not None:
        changes["prediction_type"] = prediction_type
    if zero_snr:
        kind = changes.get("prediction_type", raw.get("prediction_type", "epsilon"))
        if kind == "epsilon":
            raise UserError(
                "zero_snr: the last timestep is pure noise, which a prediction of the noise leaves "
                "unchanged: set prediction_type v_prediction as well"
            )
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if raw.get("_class_name") not in ZERO_SNR_SAMPLERS:
            changes["_class_name"] = "DDIMScheduler"
    defaults = [name for name in raw.get("_use_default_values", ()) if name not in changes]
    kept = {"_use_default_values": defaults} if "_use_default_values" in raw else {}
    return {**raw, **changes, **kept}


def _as_json(value: Any) -> str:
    """As JSON; a live scheduler's config may hold arrays (`trained_betas`)."""
    return json.dumps(
        value, default=lambda x: x.tolist() if isinstance(x, np.ndarray | np.generic) else repr(x)
    )
