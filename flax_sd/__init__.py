"""Fine-tune Stable Diffusion with LoRA in JAX/Flax."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flax_sd import samplers
    from flax_sd.pipelines.ddpm import DDPM
    from flax_sd.pipelines.stable_diffusion import StableDiffusion

__all__ = ["DDPM", "StableDiffusion", "samplers"]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that commands start, and start again, before JAX is imported."""
    if name == "samplers":
        return importlib.import_module("flax_sd.samplers")
    if name == "DDPM":
        return importlib.import_module("flax_sd.pipelines.ddpm").DDPM
    if name == "StableDiffusion":
        return importlib.import_module("flax_sd.pipelines.stable_diffusion").StableDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the names for completion and for `help(flax_sd)`, which imports them."""
    return [*globals(), *__all__]
