"""Pictures and captions through the frozen networks, once, before the first step."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from flax_sd import data
from flax_sd.config import Config
from flax_sd.data.transform import PixelTransform
from flax_sd.models.vae import Moments
from flax_sd.system import distributed, sharding
from flax_sd.system.progress import Progress
from flax_sd.training.inputs.encoded import EncodedCaptions, EncodedPictures
from flax_sd.training.inputs.encoding_cache import Store, identity
from flax_sd.training.setup.task import Objective
from flax_sd.weights.model import Model

PIXELS_AT_ONCE = 512 * 512  # on each device; encoding a picture of that size takes 1 GB
PICTURES_AT_ONCE = 16  # on each device, however small
CAPTIONS_AT_ONCE = 8  # on each device
FLOAT32 = 4  # bytes; what is kept is no wider

Arrays = dict[str, np.ndarray]


def rows_at_once(resolution: int, devices: int) -> int:
    """How many pictures are encoded together."""
    return devices * max(1, min(PICTURES_AT_ONCE, PIXELS_AT_ONCE // resolution**2))


class Work(NamedTuple):
    """Things of one kind to encode.

    Attributes:
      noun: what they are.
      items: what each key of the store stands for.
      shape: what items that are encoded together must have alike.
      load: reads an item.
      encode: jitted, (frozen, loaded items stacked) -> what is made of them.
      named: that as the arrays to keep.
      rows: items at once.
    """

    noun: str
    items: Mapping[str, Any]
    shape: Callable[[Any], Hashable]
    load: Callable[[Any], np.ndarray]
    encode: Any
    named: Callable[[Any], Arrays]
    rows: int


class Encoder:
    """Fills the store with what is not in it; each process encodes its share on its devices.

    Attributes:
      pictures: a reader for each of the sets of pictures.
      captions: the reader of all their captions; None where the text encoder is trained, or
        captions are drawn that nobody can list.
    """

    def __init__(
        self,
        config: Config,
        objective: Objective,
        model: Model,
        sets: Sequence[data.Pictures],
        store: Store,
    ):
        """Finds out what there is to encode; `sets` share their resolution."""
        self._workers, self._objective, self._model = config.data.workers, objective, model
        self._store = store
        self._mesh = sharding.make_mesh(-1, 1, jax.local_devices())
        self._frozen = sharding.shard_frozen(objective.frozen, self._mesh)
        vae = self._identity("vae")
        self.pictures = [EncodedPictures(pictures, vae, store) for pictures in sets]
        self._work = [self._pictures_work(sets)]
        self.captions: EncodedCaptions | None = None
        if objective.text is not None and not data.vary(config.data):
            text_encoder, skip = self._identity("text_encoder"), config.model.clip_skip
            self.captions = EncodedCaptions(model.tokenizer, text_encoder, skip, store)
            self._work.append(self._captions_work(self.captions, sets))

    def missing_bytes(self) -> int:
        """How much the store will grow, at most."""
        total = 0
        for work in self._work:
            for keys in _of_one_shape(work, self._missing(work)):
                one = np.stack([work.load(work.items[keys[0]])])
                shapes = jax.tree.leaves(work.encode.eval_shape(self._frozen, one))
                total += len(keys) * sum(FLOAT32 * shape.size for shape in shapes)
        return total

    def run(self, progress: Progress) -> None:
        """Encodes what is missing.

        Raises:
          UserError: a picture is gone, or what was made of it cannot be written.
        """
        count = jax.process_count()
        for work in self._work:
            missing = self._missing(work)
            self._fill(work, missing[jax.process_index() :: count], progress)
            if count > 1:  # what others have encoded is there by then, if they share the folder
                distributed.any_process(False)
                self._fill(work, self._missing(work), progress)
            found = len(work.items) - len(missing)
            progress.stage(
                "encoded", f"{len(work.items)} {work.noun}, {found} of them found in the cache"
            )

    def _identity(self, name: str) -> str:
        network = self._model.networks[name]
        return identity(network, nnx.state(network))

    def _pictures_work(self, sets: Sequence[data.Pictures]) -> Work:
        """All pictures, and the mirror images of those that are sometimes shown so."""
        items = {
            encoded.key(i, transform): (pictures, i, transform)
            for encoded, pictures in zip(self.pictures, sets, strict=True)
            for i in range(len(pictures))
            for transform in pictures.transforms(i)
        }

        def shape(item: tuple[data.Pictures, int, PixelTransform]) -> Hashable:
            _, _, transform = item
            return transform.fit.shape

        def load(item: tuple[data.Pictures, int, PixelTransform]) -> np.ndarray:
            pictures, i, transform = item
            return pictures.cut(i, transform)

        def named(moments: Moments) -> Arrays:
            return {name: array.astype(np.float32) for name, array in moments._asdict().items()}

        rows = rows_at_once(sets[0].cfg.resolution, self._mesh.size)
        return Work("pictures", items, shape, load, self._objective.moments, named, rows)

    def _captions_work(self, captions: EncodedCaptions, sets: Sequence[data.Pictures]) -> Work:
        """All captions, and the empty one."""
        texts = (text for p in sets for i in range(len(p)) for text in p.captions(i))
        items = {captions.key(text): text for text in dict.fromkeys(["", *texts])}

        def shape(text: str) -> Hashable:
            return None

        def named(states: Any) -> Arrays:
            return {"states": states}

        rows = CAPTIONS_AT_ONCE * self._mesh.size
        return Work("captions", items, shape, captions.ids, self._objective.text, named, rows)

    def _missing(self, work: Work) -> list[str]:
        return [key for key in work.items if not self._store.has(key)]

    def _fill(self, work: Work, keys: list[str], progress: Progress) -> None:
        with progress.count(len(keys), f"encoding {work.noun}") as shown:
            for part, arrays in self._encoded(work, keys):
                for row, key in enumerate(part):
                    self._store.write(key, {name: array[row] for name, array in arrays.items()})
                shown.update(shown.done + len(part))

    def _encoded(self, work: Work, keys: list[str]) -> Iterable[tuple[list[str], Arrays]]:
        """Keys and their rows, chunk after chunk; the next is read while the devices work."""
        waiting: tuple[list[str], Any] | None = None
        rows = jax.NamedSharding(self._mesh, sharding.BATCH)
        with ThreadPoolExecutor(self._workers) as pool:
            for part in _parts(work, keys):
                loaded = list(pool.map(work.load, [work.items[key] for key in part]))
                loaded += loaded[:1] * (work.rows - len(part))  # padded: one compilation
                sharded = jax.device_put(np.stack(loaded), rows)
                now = part, work.encode(self._frozen, sharded)
                if waiting is not None:
                    yield waiting[0], work.named(jax.device_get(waiting[1]))
                waiting = now
        if waiting is not None:
            yield waiting[0], work.named(jax.device_get(waiting[1]))


def _of_one_shape(work: Work, keys: Sequence[str]) -> Iterator[list[str]]:
    for places in data.alike([work.shape(work.items[key]) for key in keys]):
        yield [keys[i] for i in places]


def _parts(work: Work, keys: Sequence[str]) -> Iterator[list[str]]:
    """What is encoded together."""
    for same in _of_one_shape(work, keys):
        for start in range(0, len(same), work.rows):
            yield same[start : start + work.rows]
