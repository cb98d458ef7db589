"""Pictures and captions through the frozen networks, once, before the first step."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import PIL
from flax import nnx
from jaxtyping import Float, Float32

from flax_sd import data, sharding
from flax_sd.config import Config, DataConfig
from flax_sd.data.images import Draw
from flax_sd.progress import Progress
from flax_sd.runs.objective import Objective
from flax_sd.runs.parts import Parts
from flax_sd.runs.store import Store, identity, key_of

PIXELS_AT_ONCE = 512 * 512  # on each device; encoding a picture of that size takes 1 GB
PICTURES_AT_ONCE = 16  # on each device, however small
CAPTIONS_AT_ONCE = 8  # on each device

Arrays = dict[str, Any]  # name -> rows, of NumPy's or on the devices


class EncodedPictures:
    """The moments of pictures' latents, read from the store; a `data.Source`."""

    def __init__(self, pictures: data.Pictures, vae: str, store: Store):
        """Names the files; `vae` is the autoencoder's identity."""
        self.cfg: DataConfig = pictures.cfg
        self._pictures, self._vae, self._store = pictures, vae, store

    def __len__(self) -> int:
        return len(self._pictures)

    def captions(self, i: int) -> tuple[str, ...]:
        """All captions of picture i."""
        return self._pictures.captions(i)

    def caption(self, i: int, *, seed: int, sample: int) -> str:
        """The caption that sample number `sample` draws for picture i."""
        return self._pictures.caption(i, seed=seed, sample=sample)

    def load(self, i: int, *, seed: int, sample: int) -> Float32[np.ndarray, "2 h w c"]:
        """Mean and log variance of picture i, or of its mirror image.

        Raises:
          UserError: they are not in the store any more.
        """
        key = self.key(i, self._pictures.mirrored(seed=seed, sample=sample))
        moments = self._store.read(key)
        return np.stack([moments["mean"], moments["logvar"]])

    def key(self, i: int, mirrored: bool) -> str:
        """What all that decides the moments comes to; the cut is the middle's."""
        cfg = self.cfg
        of_picture = [self._pictures.digests[i], cfg.resolution, cfg.background, mirrored]
        return key_of("moments", *of_picture, PIL.__version__, self._vae)


class EncodedCaptions:
    """The text states of captions, read from the store."""

    def __init__(self, text_encoder: str, clip_skip: int, store: Store):
        self._encoder, self._skip, self._store = text_encoder, clip_skip, store

    def states(self, captions: Sequence[str]) -> Float[np.ndarray, "b n d"]:
        """What the UNet attends to.

        Raises:
          UserError: a caption's states are not in the store any more.
        """
        return np.stack([self._store.read(self.key(text))["states"] for text in captions])

    def key(self, caption: str) -> str:
        """What all that decides the states comes to."""
        return key_of("states", caption, self._skip, self._encoder)


def rows_at_once(resolution: int, devices: int) -> int:
    """How many pictures are encoded together."""
    return devices * max(1, min(PICTURES_AT_ONCE, PIXELS_AT_ONCE // resolution**2))


class Encoder:
    """Fills the store with what is not in it; each process encodes its share on its devices."""

    def __init__(
        self, config: Config, objective: Objective, parts: Parts, store: Store, progress: Progress
    ):
        self._config, self._objective, self._parts = config, objective, parts
        self._store, self._progress = store, progress
        self._mesh = sharding.make_mesh(-1, 1, jax.local_devices())
        self._frozen = sharding.shard_frozen(objective.frozen, self._mesh)
        self._identity = functools.cache(self._identify)

    def pictures(self, pictures: data.Pictures) -> EncodedPictures:
        """Encodes pictures, and their mirror images where some are shown mirrored."""
        encoded = EncodedPictures(pictures, self._identity("vae"), self._store)
        sides = (False, True) if pictures.cfg.random_flip else (False,)
        todo = {encoded.key(i, m): (i, m) for i in range(len(pictures)) for m in sides}

        def load(item: tuple[int, bool]) -> np.ndarray:
            return pictures.cut(item[0], Draw(caption=0, flip=int(item[1]), top=0, left=0))

        def encode(pixels: Any) -> Arrays:
            return self._objective.moments(self._frozen, pixels)._asdict()

        rows = rows_at_once(pictures.cfg.resolution, self._mesh.size)
        self._fill("pictures", todo, load, encode, rows, np.float32)
        return encoded

    def captions(self, captions: Iterable[str]) -> EncodedCaptions | None:
        """Encodes captions and the empty one; None where the text encoder is trained."""
        if self._objective.text is None:
            return None
        identity = self._identity("text_encoder")
        encoded = EncodedCaptions(identity, self._config.model.clip_skip, self._store)
        todo = {encoded.key(text): text for text in dict.fromkeys(["", *captions])}
        tokenizer = self._parts.tokenizer
        assert tokenizer is not None, "mode vae encodes nothing"

        def encode(ids: Any) -> Arrays:
            return {"states": self._objective.text(self._frozen, ids)}

        rows = CAPTIONS_AT_ONCE * self._mesh.size
        self._fill("captions", todo, lambda text: tokenizer([text])[0], encode, rows)
        return encoded

    def _identify(self, name: str) -> str:
        network = self._parts.networks[name]
        return identity(network, nnx.state(network))

    def _fill(
        self,
        noun: str,
        todo: Mapping[str, Any],
        load: Callable[[Any], np.ndarray],
        encode: Callable[[Any], Arrays],
        rows: int,
        dtype: Any = None,
    ) -> None:
        """Encodes the items whose keys are not in the store, `rows` at once."""
        missing = [key for key in todo if not self._store.has(key)]
        left = missing[jax.process_index() :: jax.process_count()]
        for turn in range(min(2, jax.process_count())):
            if turn:  # what others have encoded is there by now, if they share the folder
                sharding.any_process(False)
                left = [key for key in missing if not self._store.has(key)]
            with self._progress.count(len(left), f"encoding {noun}") as shown:
                for keys, arrays in self._encoded(left, todo, load, encode, rows):
                    for row, key in enumerate(keys):
                        parts = {name: np.asarray(a[row], dtype) for name, a in arrays.items()}
                        self._store.write(key, parts)
                    shown.advance(len(keys))
        self._progress.stage(
            "encoded", f"{len(todo)} {noun}, {len(todo) - len(missing)} of them found in the cache"
        )

    def _encoded(
        self,
        keys: list[str],
        todo: Mapping[str, Any],
        load: Callable[[Any], np.ndarray],
        encode: Callable[[Any], Arrays],
        rows: int,
    ) -> Iterable[tuple[list[str], Arrays]]:
        """Keys and their rows, chunk after chunk; the next is read while the devices work."""
        waiting: tuple[list[str], Arrays] | None = None
        with ThreadPoolExecutor(self._config.data.workers) as pool:
            for start in range(0, len(keys), rows):
                part = keys[start : start + rows]
                loaded = list(pool.map(load, [todo[key] for key in part]))
                loaded += loaded[:1] * (rows - len(part))  # padded: one compilation
                sharded = jax.device_put(
                    np.stack(loaded), jax.NamedSharding(self._mesh, sharding.BATCH)
                )
                now = part, encode(sharded)
                if waiting is not None:
                    yield waiting[0], jax.device_get(waiting[1])
                waiting = now
        if waiting is not None:
            yield waiting[0], jax.device_get(waiting[1])
