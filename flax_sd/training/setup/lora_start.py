"""The LoRA file that a run trains further: `lora.start`."""

import logging
import math
import pathlib
from collections.abc import Iterator, Mapping

from flax import nnx

from flax_sd.config import Config, LoRAConfig
from flax_sd.errors import UserError
from flax_sd.lora.adapter import LoRAFile
from flax_sd.lora.formats.folded_alphas import Alphas, is_folded, unfolded
from flax_sd.lora.formats.read import read
from flax_sd.lora.targets import match
from flax_sd.models.text_encoders import TextRule
from flax_sd.run_folder.saved_config import config_of
from flax_sd.training.setup.trained_layers import reached

LOGGER = logging.getLogger("flax_sd")


def read_start(config: Config, networks: Mapping[str, nnx.Module], rule: TextRule) -> LoRAFile:
    """Reads the LoRA of `lora.start`, each layer with the scale that it was trained at.

    Raises:
      UserError: it is not a LoRA, does not fit the model or differs from the options.
    """
    start = config.lora.start
    assert start is not None
    known = {name: network for name, network in networks.items() if name != "vae"}
    lora, said = _at_its_scales(start, config.lora, known)
    if problems := [*_clashes(config, lora, known, rule)]:
        raise UserError("\n  ".join([f"lora.start {start} does not fit the options:", *problems]))
    if said:
        LOGGER.warning("%s", said)
    return lora


def _at_its_scales(
    path: pathlib.Path, settings: LoRAConfig, networks: Mapping[str, nnx.Module]
) -> tuple[LoRAFile, str]:
    """Returns the LoRA, and a warning if the file does not tell its scales."""
    lora = read(path, networks)
    if not is_folded(path, lora):
        return lora, ""
    run = _run_of(path)
    if run is not None:
        alphas, source = _alphas_of_run(run, networks), "with the scales of its run"
    elif settings.alpha is None:
        alphas, source = _alphas(settings), "with a scale of 1 (lora.alpha sets another)"
    else:
        alphas, source = _alphas(settings), f"with {settings.alpha:g} (lora.alpha) / rank"
    told = unfolded(lora, alphas)
    if all(
        told[name][p].alpha == one.alpha for name, own in lora.items() for p, one in own.items()
    ):
        return told, ""
    return told, (
        f"lora.start {path} does not tell the scales of its layers. Their effect is unchanged, and "
        f"they are trained {source}"
    )


def _run_of(path: pathlib.Path) -> Config | None:
    """Returns the config of the run that trained the LoRA; None if it is in no run's folder."""
    try:
        run = config_of(path)
    except UserError:  # another program's config.yaml
        return None
    return run if run is not None and run.mode.adapters else None


def _alphas(settings: LoRAConfig) -> Alphas:
    """Returns the alphas of new layers."""

    def alpha(component: str, path: str, rank: int) -> float:
        given = float(rank) if settings.alpha is None else settings.alpha
        return given * (math.sqrt(rank) if settings.rslora else 1)

    return alpha


def _alphas_of_run(run: Config, networks: Mapping[str, nnx.Module]) -> Alphas:
    """Returns the alphas that the run trained with: those of its own `lora.start`, if any."""
    fresh, start = _alphas(run.lora), run.lora.start
    if start is None:
        return fresh
    try:
        earlier, _ = _at_its_scales(start, run.lora, networks)
    except UserError:  # the file is gone
        return fresh

    def alpha(component: str, path: str, rank: int) -> float:
        known = earlier.get(component, {}).get(path)
        return fresh(component, path, rank) if known is None else known.alpha

    return alpha


def _clashes(
    config: Config, lora: LoRAFile, networks: Mapping[str, nnx.Module], rule: TextRule
) -> Iterator[str]:
    """Yields the differences between file and options; options at their defaults do not count."""
    for name in sorted(lora.keys() ^ set(config.lora_components)):
        if name in lora:
            yield f"it has layers of the {name}, which the run does not train (train.{name} does)"
        else:
            yield f"it has no layers of the {name}, which the run trains"
    settings, default = config.lora, LoRAConfig()
    adapters = [adapter for own in lora.values() for adapter in own.values()]
    for name in ("rank", "alpha"):
        wanted = getattr(settings, name)
        found = sorted({getattr(adapter, name) for adapter in adapters})
        if wanted != getattr(default, name) and found != [wanted]:
            yield f"lora.{name} is {wanted:g}, it has {', '.join(f'{value:g}' for value in found)}"
    if settings.targets != default.targets:
        for name, own in lora.items():
            picked = set(match(networks[name], settings.targets))
            skip, differing = config.model.clip_skip, sorted(picked ^ own.keys())
            odd = [path for path in differing if reached(networks[name], path, skip, rule)]
            if odd:
                layer = f"{name}.{odd[0]}"
                which = f"does not have {layer}" if odd[0] in picked else f"also has {layer}"
                yield f"lora.targets is {settings.targets!r}, it {which}"
