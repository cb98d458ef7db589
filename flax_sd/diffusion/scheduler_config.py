"""Reads scheduler_config.json, which describes how a diffusers checkpoint adds noise.

A dataclass lists the fields that a scheduler class reads, with that class's defaults. Real files
also have fields of other classes (SD 1.x gives PNDM a `clip_sample`), which are ignored.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from flax_sd.errors import UserError, listed
from flax_sd.files.json_values import JsonObject, as_json, is_finite, never_set, shown

Beta = Annotated[float, pydantic.Field(ge=0, lt=1)]  # variance of a step's noise


Prediction = Literal["epsilon", "v_prediction", "sample"]  # of all classes but those of flows


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaConfig:
    """The fields that every scheduler class reads, with the defaults of diffusers' classes.

    These defaults are the DDPM paper's; Stable Diffusion's values come from its files.
    """

    num_train_timesteps: Annotated[int, pydantic.Field(ge=1, le=100_000)] = 1000
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Annotated[tuple[Beta, ...], pydantic.Field(min_length=1)] | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_prediction"] = "epsilon"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(BetaConfig):
    """The further fields of `DDPMScheduler`, which diffusers trains with."""

    prediction_type: Prediction = "epsilon"
    rescale_betas_zero_snr: bool = False


Config = TypeVar("Config")


def explicit_fields(raw: Mapping[str, object]) -> JsonObject:
    """Returns the fields that were set, without private ones.

    The config of a live scheduler lists in `_use_default_values` the fields that only have their
    class's default; for these another class uses its own defaults, as in diffusers.
    """
    defaults = never_set(raw)
    return {k: v for k, v in raw.items() if not k.startswith("_") and k not in defaults}


def read_config(cls: type[Config], raw: Mapping[str, object]) -> Config:
    """Builds the frozen dataclass `cls` from a parsed scheduler_config.json.

    Args:
      cls: its annotations give the allowed types and values. Its `unsupported` has other fields
        that the scheduler class reads, with their only value.
      raw: the parsed file.

    Raises:
      UserError: a field is of a wrong type or value, or not supported; all are named.
    """
    fields, declared = _in_use(cls, explicit_fields(raw)), _declared(cls)
    if isinstance(offset := fields.get("steps_offset"), list) and len(offset) == 1:
        fields["steps_offset"] = offset[0]  # which NumPy adds as it adds the number
    problems = [
        f"{name} is {shown(fields[name])}: only {as_json(default)} is supported"
        for name, default in getattr(cls, "unsupported", {}).items()
        if name in fields and (bool(fields[name]) if default is False else fields[name]) != default
    ]
    known = {field.name: fields[field.name] for field in declared if field.name in fields}
    for field in declared:
        if field.type is bool and not isinstance(fields.get(field.name, ""), str):
            known[field.name] = bool(fields[field.name])  # its truth in Python
    problems += [
        f"{k} is {shown(v)}: NaN or infinite" for k, v in known.items() if not is_finite(v)
    ]
    try:  # as JSON: lists become tuples and whole numbers floats, yet nothing else is converted
        config = pydantic.TypeAdapter(cls).validate_json(as_json(known), strict=True)
    except pydantic.ValidationError as error:
        for item in error.errors():
            name, allowed = str(next(iter(item["loc"]), "it")), item["msg"]
            allowed = allowed.removeprefix("Input ").removeprefix("Tuple ")
            problems.append(f"{name} is {shown(fields.get(name))}: {allowed}")
        problems = list(dict.fromkeys(problems))
    else:
        if not problems:
            return config
    title = raw.get("_class_name", "")
    raise UserError(listed(f"scheduler config {title} cannot be used:", problems))


# Classes that read rescale_betas_zero_snr and timestep_spacing; without DDPM, which files of
# trainings name, and which needs many steps.
ZERO_SNR_SAMPLERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "UniPCMultistepScheduler",
)


def overridden(
    raw: Mapping[str, object], prediction_type: str | None, *, zero_snr: bool
) -> JsonObject:
    """Returns a scheduler config with another prediction type, or ending in pure noise.

    Args:
      prediction_type: None leaves it as it is.
      zero_snr: rescales the betas and spaces timesteps so that sampling starts at the last (Lin et
        al. 2023, §3.1 and §3.3); a class that cannot rescale them becomes DDIM.

    Raises:
      UserError: zero_snr with "epsilon", which predicts no image at the last timestep.
    """
    changes: JsonObject = {}
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
    defaults = [name for name in never_set(raw) if name not in changes]
    kept = {"_use_default_values": defaults} if "_use_default_values" in raw else {}
    return {**raw, **changes, **kept}


def _declared(cls: Any) -> Sequence[dataclasses.Field]:
    return dataclasses.fields(cls)


def _in_use(cls: type, fields: Mapping[str, object]) -> JsonObject:
    """Returns the fields without those that no class reads, given the values of the others."""
    spacing = getattr(cls, "timestep_spacing", None)

    def of(name: str, default: Any = None) -> Any:
        return fields.get(name, default)

    idle: set[str] = set()
    if of("trained_betas") is not None:
        idle |= {"beta_start", "beta_end", "beta_schedule"}
    if of("beta_schedule") == "squaredcos_cap_v2":
        idle |= {"beta_start", "beta_end"}
    if not of("thresholding"):
        idle |= {"dynamic_thresholding_ratio", "sample_max_value"}
    if of("thresholding") or not of("clip_sample", getattr(cls, "clip_sample", True)):
        idle.add("clip_sample_range")
    if not of("use_flow_sigmas"):
        idle.add("flow_shift")
    if of("lambda_min_clipped") == -math.inf:
        idle.add("lambda_min_clipped")
    if of("timestep_spacing", spacing) in ("linspace", "trailing"):
        idle.add("steps_offset")
    rules = [f"use_{kind}_sigmas" for kind in ("karras", "exponential", "beta")]
    if hasattr(cls, rules[0]) and not any(map(of, rules)):
        idle |= {"sigma_min", "sigma_max"}
    if (of("timestep_type"), of("prediction_type")) != ("continuous", "v_prediction"):
        idle.add("timestep_type")
    if not isinstance(of("variance_type"), str):  # of DDPM, which then takes the default's branch
        idle.add("variance_type")
    return {name: value for name, value in fields.items() if name not in idle}
