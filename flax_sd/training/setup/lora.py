"""Adds the LoRA of a run to its networks: a new one, or that of a file to train further."""

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import ArrayLike

from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.lora.dropout_masks import Rates
from flax_sd.lora.inject import attach, hold_in_int8, inject
from flax_sd.lora.max_norm import limit_norms
from flax_sd.models.text_encoders import TextRule
from flax_sd.training.losses import Trees
from flax_sd.training.setup.lora_start import read_start
from flax_sd.training.setup.trained_layers import reached


def add_adapters(config: Config, networks: Mapping[str, nnx.Module], rule: TextRule) -> None:
    """Adds the LoRA of the config to the layers of `networks`, in place.

    With `model.base_dtype` int8 the layers' own weights are then held in 8 bits.

    Args:
      rule: of the family, which tells what layers of its text encoders are read.

    Raises:
      UserError: `lora.targets` or a pattern of `lora.ranks` matches nothing, or `lora.start` is not
        a LoRA, does not fit the model or differs from the options.
    """
    if config.lora.start is None:
        _add_fresh(config, networks, rule)
    else:
        for name, adapters in read_start(config, networks, rule).items():
            attach(networks[name], adapters, 1.0)
    if config.model.base_dtype == "int8":
        for name in config.lora_components:
            hold_in_int8(networks[name])


def dropout_rates(config: Config) -> Rates | None:
    """Returns the LoRA's dropout rates; None if all are 0."""
    settings = config.lora
    rates = Rates(settings.dropout, settings.rank_dropout, settings.module_dropout)
    return rates if any(rates) else None


class NormLimit(NamedTuple):
    """Limits the norms of a LoRA after each update."""

    largest: ArrayLike

    def __call__(self, params: Trees, frozen: Trees) -> Trees:
        """Returns the trained leaves within the limit."""
        return {
            name: limit_norms(leaves, frozen[name], self.largest) for name, leaves in params.items()
        }


def constraint(config: Config) -> NormLimit | None:
    """Returns the limit of the LoRA's norms; None if there is none."""
    largest = config.lora.max_norm
    return None if largest is None else NormLimit(largest)


def _add_fresh(config: Config, networks: Mapping[str, nnx.Module], rule: TextRule) -> None:
    settings, key = config.lora, jax.random.key(config.seed)
    found: set[str] = set()

    def rank_of(component: str, path: str) -> int:
        here = reached(networks[component], path, config.model.clip_skip, rule)
        for pattern, rank in settings.ranks.items():
            if re.search(pattern, f"{component}.{path}"):
                found.add(pattern)
                return rank if here else 0
        return settings.rank if here else 0

    for i, name in enumerate(config.lora_components):
        inject(
            networks[name],
            settings.targets,
            functools.partial(rank_of, name),
            settings.alpha,
            settings.init,
            jax.random.fold_in(key, i),
            rank_stabilised=settings.rslora,
            dora=settings.dora,
        )
    if idle := settings.ranks.keys() - found:
        raise UserError(
            f"lora.ranks: no layer of targets {settings.targets!r} matches "
            f"{', '.join(map(repr, sorted(idle)))}"
        )
