"""Losses and images of the model before its first step, kept for the next run that begins alike.

They take minutes at the size of SD 1.5 on a CPU, and are the same each time.
"""

import contextlib
import functools
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float64, UInt8

from flax_sd.config import Config, to_dict
from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.files.user_cache import user_cache
from flax_sd.training.inputs.encoding_cache import Store, identity, key_of
from flax_sd.weights.model import Model

FOLDER = "starts"
MAX_BYTES = 2**28  # of all runs together; the oldest go first
IMAGES = "images"
KNOWN = ", known from an earlier run"  # what the lines of such results end with
# What says nothing of a model before its first step. An option that is missing here costs another
# evaluation, and never a wrong one.
LATER = ("output", "checkpoint", "log", "optim.learning_rate")


class StartResults:
    """What an earlier run found before its first step, if that began alike.

    Attributes:
      losses: of each image in each band, by set; None if they are not known.
      images: of the samples; None if they are not known.
    """

    losses: dict[str, Float64[np.ndarray, "n bands"]] | None
    images: UInt8[np.ndarray, "n h w 3"] | None

    def __init__(self, key: str | None, folder: pathlib.Path | None = None):
        """Reads what is known.

        Args:
          key: of `start_key`; None knows nothing and keeps nothing.
        """
        self._key, self._store = key, Store(folder or user_cache() / FOLDER)
        self.losses = self._read("losses")
        self.images = (self._read(IMAGES) or {}).get(IMAGES)

    def keep_losses(self, losses: Mapping[str, Float64[np.ndarray, "n bands"]]) -> None:
        """Keeps the losses of each set for later runs."""
        self._keep("losses", losses)

    def keep_images(self, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        """Keeps the images of the samples for later runs."""
        self._keep(IMAGES, {IMAGES: images})

    def _read(self, what: str) -> dict[str, np.ndarray] | None:
        if self._key is not None:
            with contextlib.suppress(UserError):  # not known, or damaged
                return self._store.read(key_of(self._key, what))
        return None

    def _keep(self, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        if self._key is not None:
            with contextlib.suppress(OSError, UserError):  # it is only a help
                self._store.write(key_of(self._key, what), arrays)
                self._store.limit(MAX_BYTES)


def start_key(
    config: Config, made_with: JsonObject, model: Model, prompts: Sequence[str]
) -> str | None:
    """Returns a hash of all that the model before its first step, and its results, depend on.

    These are the weights with the adapters, the code and its versions, the devices, the images
    and captions, and the options but for `LATER`.

    Args:
      made_with: of `environment.facts`.
      prompts: of the samples, which may be captions.

    Returns:
      None where several processes share the work: they would have to find the same.
    """
    if jax.process_count() > 1:
        return None
    options = to_dict(config)
    for name in LATER:
        *sections, option = name.split(".")
        functools.reduce(dict.__getitem__, sections, options).pop(option, None)
    weights = {name: identity(n, nnx.state(n)) for name, n in model.networks.items()}
    words = [tokenizer.digest for tokenizer in model.tokenizers]
    return key_of(options, made_with, weights, words, model.scheduler_config, list(prompts))
