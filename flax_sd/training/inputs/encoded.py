"""Images and captions that were encoded before the first step, read from the store."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
from jaxtyping import Float32, Int32

from flax_sd import data
from flax_sd.config import DataConfig
from flax_sd.data.batches import stack
from flax_sd.data.images.image_file import draw
from flax_sd.data.transform import PixelTransform
from flax_sd.models.clip import TextStates
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

    def time_ids(self, i: int, *, seed: int, sample: int) -> Int32[np.ndarray, "6"]:
        """Returns the sizes and the crop of image i, which no encoding keeps."""
        return self._images.time_ids(i, seed=seed, sample=sample)

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

    def __init__(
        self,
        tokenizers: Sequence[Tokenizer],
        text_encoders: Sequence[str],
        clip_skip: int,
        store: Store,
    ):
        """Takes the tokenizers; each of `text_encoders` identifies a network and its weights."""
        self._tokenizers, self._store = tokenizers, store
        self._made_by = clip_skip, code_version(), *text_encoders
        self._ids: dict[str, tuple[Int32[np.ndarray, "*k n"], ...]] = {}

    def states(self, captions: Sequence[str]) -> TextStates:
        """Reads the text states that the UNet reads.

        Raises:
          UserError: a caption's states are no longer in the store.
        """
        read: list[Any] = [self._store.read(self.key(text)) for text in captions]
        return stack([TextStates(**arrays) for arrays in read])

    def ids(self, caption: str) -> tuple[Int32[np.ndarray, "*k n"], ...]:
        """Returns the token ids of a caption, as each text encoder reads them."""
        if caption not in self._ids:
            self._ids[caption] = tuple(each([caption])[0] for each in self._tokenizers)
        return self._ids[caption]

    def key(self, caption: str) -> str:
        """Returns a hash of everything that determines the states."""
        return key_of("states", [ids.tolist() for ids in self.ids(caption)], *self._made_by)
