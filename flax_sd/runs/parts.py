"""The parts of a model that a training run needs, loaded or new."""

import pathlib
from typing import Any, NamedTuple

import jax

from flax_sd import components
from flax_sd.config import Config
from flax_sd.schedule import NoiseSchedule
from flax_sd.tokenizer import Tokenizer
from flax_sd.weights import hub
from flax_sd.weights.folder import read_json


class Parts(NamedTuple):
    """Networks by component name; in mode vae the UNet and the text encoder stay away."""

    folder: pathlib.Path
    networks: dict[str, Any]
    tokenizer: Tokenizer | None
    scheduler_config: dict[str, Any]


def load_parts(config: Config, compute_dtype: str) -> Parts:
    """Loads what the mode needs; what is trained whole is float32, the rest in `compute_dtype`.

    Raises:
      UserError: the model cannot be found or does not fit.
    """
    model, train = config.model, config.train
    folder = hub.resolve(model.path, model.revision, model.variant)
    names = ["vae"] if train.mode == "vae" else ["vae", "text_encoder", "unet"]
    whole = trained_whole(config)
    networks = {}
    for name in names:
        dtype = "float32" if name in whole else compute_dtype
        if name in model.from_scratch:
            key = jax.random.fold_in(jax.random.key(config.seed), names.index(name))
            networks[name] = components.random_network(folder, name, key, dtype)
        elif name == "vae" and model.vae is not None:
            networks[name] = load_vae(model.vae, dtype, model.variant)
        else:
            networks[name] = components.load_network(folder, name, dtype, model.variant)
    tokenizer = None if train.mode == "vae" else Tokenizer.load(folder / "tokenizer")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return Parts(folder, networks, tokenizer, scheduler)


def trained_whole(config: Config) -> tuple[str, ...]:
    """The components all of whose weights the run trains."""
    if config.train.mode == "lora":
        return ()
    if config.train.mode == "vae":
        return ("vae",)
    return ("unet", "text_encoder") if config.train.text_encoder else ("unet",)


def load_vae(source: str, dtype: str, variant: str | None = None) -> components.VAE:
    """A VAE of its own: a folder with config.json, or a model folder that has a `vae` in it.

    Raises:
      UserError: there is none, or it does not fit.
    """
    folder = hub.resolve(source, None, variant)
    if (folder / "vae" / "config.json").is_file():
        return components.load_network(folder, "vae", dtype, variant)
    return components.load_network(folder, ".", dtype, variant)


def noise_schedule(parts: Parts) -> NoiseSchedule:
    """The forward process that the checkpoint's scheduler describes."""
    return NoiseSchedule.from_config(parts.scheduler_config)
