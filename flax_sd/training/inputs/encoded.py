"""Images and captions that were encoded before the first step, read from the store."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
from jaxtyping import Float, Float32, Int32

from flax_sd import data
from flax_sd.config import DataConfig
from flax_sd.data.images.image_file import draw
from flax_sd.data.transform import PixelTransform
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.models.vae import Moments
from flax_sd.training.inputs.encoding_cache import Store, code_version, key_of


class EncodedImages:
    """The moments of images' latents, read from the store; a `data.Source`."""

    def __init__(self, images: data.Images, vae: str, store: Store):
        """Takes the images; `vae` identifies the autoencoder and its weights."""
        self.cfg: DataConfig = images.cfg
        self.shapes, self.repeats = images.shapes, images.repeats
        self.weights = images.weights
        self._images, self._store = images, store
        self._made_by = PIL.__version__, code_version(), vae

    def __len__(self) -> int:
        return len(self._images)

    def captions(self, i: int) -> tuple[str, ...]:
        """Returns all captions of image i."""
        return self._images.captions(i)

    def caption(self, i: int, *, seed: int, sample: int) -> str:
        """Returns the caption that sample number `sample` draws for image i."""
        return self._images.caption(i, seed=seed, sample=sample)

    def load(self, i: int, *, seed: int, sample: int) -> Moments:
        """Reads the moments of image i, or of its mirror image, without a batch axis.

        Raises:
          UserError: they are no longer in the store.
        """
        transform = self._images.transform(i, draw(seed, sample))
        arrays: dict[str, Any] = self._store.read(self.key(i, transform))
        return Moments(**arrays)

    def mask(self, i: int, *, seed: int, sample: int) -> Float32[np.ndarray, "h w"] | None:
        """Reads the mask of image i from its file.

        Raises:
          UserError: it can no longer be read.
        """
        return self._images.mask(i, seed=seed, sample=sample)

    def key(self, i: int, transform: PixelTransform) -> str:
        """Returns a hash of everything that determines the moments."""
        return key_of("moments", self._images.seen[i].digest, transform, *self._made_by)


class EncodedCaptions:
    """The text states of captions, read from the store."""

    def __init__(self, tokenizer: Tokenizer, text_encoder: str, clip_skip: int, store: Store):
        """Takes the tokenizer; `text_encoder` identifies that network and its weights."""
        self._tokenizer, self._store = tokenizer, store
        self._made_by = clip_skip, code_version(), text_encoder
        self._ids: dict[str, Int32[np.ndarray, "*k n"]] = {}

    def states(self, captions: Sequence[str]) -> Float[np.ndarray, "b n d"]:
        """Reads the text states that the UNet attends to.

        Raises:
          UserError: a caption's states are no longer in the store.
        """
        return np.stack([self._store.read(self.key(text))["states"] for text in captions])

    def ids(self, caption: str) -> Int32[np.ndarray, "*k n"]:
        """Returns the token ids of a caption, as the text encoder reads them."""
        if caption not in self._ids:
            self._ids[caption] = self._tokenizer([caption])[0]
        return self._ids[caption]

    def key(self, caption: str) -> str:
        """Returns a hash of everything that determines the states."""
        return key_of("states", self.ids(caption).tolist(), *self._made_by)
