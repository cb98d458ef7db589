"""The LoRA of a run put into its networks: a fresh one, or that of a file to be trained on."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax

from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.lora.dropout_masks import Rates
from flax_sd.lora.inject import attach, hold_in_int8, inject
from flax_sd.lora.max_norm import limit_norms
from flax_sd.system.compiler import remembered
from flax_sd.training.losses import Trees
from flax_sd.training.setup.lora_start import read_start
from flax_sd.training.setup.trained_layers import reached


def add_adapters(config: Config, networks: dict[str, Any]) -> None:
    """Puts the LoRA of the config beside the layers of `networks`, in place.

    With `model.base_dtype` int8 the layers themselves are held in 8 bits from then on.

    Raises:
      UserError: `lora.targets` or a pattern of `lora.ranks` matches nothing, or `lora.start` is no
        LoRA, does not fit the model or is another than the options describe.
    """
    if config.lora.start is None:
        _add_fresh(config, networks)
    else:
        for name, adapters in read_start(config, networks).items():
            attach(networks[name], adapters, 1.0)
    if config.model.base_dtype == "int8":
        for name in config.lora_components:
            hold_in_int8(networks[name])


def dropout_rates(config: Config) -> Rates | None:
    """What the LoRA leaves out at random in training; None for nothing."""
    settings = config.lora
    rates = Rates(settings.dropout, settings.rank_dropout, settings.module_dropout)
    return rates if any(rates) else None


def constraint(config: Config) -> Callable[[Trees, Trees], Trees] | None:
    """What each step does to the LoRA after its update; None for nothing."""
    largest = config.lora.max_norm
    return None if largest is None else _norm_limit(largest)


@remembered
def _norm_limit(largest: float) -> Callable[[Trees, Trees], Trees]:
    return lambda params, frozen: {
        name: limit_norms(leaves, frozen[name], largest) for name, leaves in params.items()
    }


def _add_fresh(config: Config, networks: dict[str, Any]) -> None:
    settings, key = config.lora, jax.random.key(config.seed)
    found: set[str] = set()

    def rank_of(component: str, path: str) -> int:
        here = reached(config, component, networks[component], path)
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
