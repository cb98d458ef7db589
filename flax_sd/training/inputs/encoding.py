"""Encodes images and captions with the frozen networks, once, before the first step."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from flax_sd import data
from flax_sd.config import Config
from flax_sd.data.batches import stack
from flax_sd.data.transform import PixelTransform
from flax_sd.models.clip import TextStates
from flax_sd.models.vae import Moments
from flax_sd.system import distributed, sharding
from flax_sd.system.program import Program
from flax_sd.system.progress import Progress
from flax_sd.training.inputs.encoded import EncodedCaptions, EncodedImages
from flax_sd.training.inputs.encoding_cache import Store, identity
from flax_sd.training.setup.task import TrainTask
from flax_sd.weights.model import Model

PIXELS_AT_ONCE = 512 * 512  # on each device; encoding an image of that size takes 1 GB
PICTURES_AT_ONCE = 16  # on each device, however small
CAPTIONS_AT_ONCE = 8  # on each device
FLOAT32 = 4  # bytes; the store holds no wider numbers

Arrays = dict[str, np.ndarray]


def rows_at_once(resolution: int, devices: int) -> int:
    """Returns how many images are encoded together."""
    return devices * max(1, min(PICTURES_AT_ONCE, PIXELS_AT_ONCE // resolution**2))


class EncodeJob(NamedTuple):
    """Images or captions to encode.

    Attributes:
      noun: their name in messages.
      items: the item of each key of the store.
      shape: items are encoded together if this is equal.
      load: reads an item.
      encode: jitted, (frozen, loaded items stacked) -> encoded items.
      named: turns encoded items into the arrays to store.
      rows: number of items that are encoded together.
    """

    noun: str
    items: Mapping[str, Any]
    shape: Callable[[Any], Hashable]
    load: Callable[[Any], PyTree]
    encode: Program
    named: Callable[[Any], Arrays]
    rows: int


class Encoder:
    """Encodes what the store lacks; each process encodes its share on its devices.

    Attributes:
      images: a reader for each set of images.
      captions: the reader of all their captions; None if the text encoder is trained, or if
        captions are random.
    """

    def __init__(
        self,
        config: Config,
        task: TrainTask,
        model: Model,
        sets: Sequence[data.Images],
        store: Store,
    ):
        """Lists what there is to encode; `sets` share their resolution."""
        self._workers, self._task, self._model = config.data.workers, task, model
        self._store = store
        self._mesh = sharding.make_mesh(-1, 1, jax.local_devices())
        self._frozen = sharding.shard_frozen(task.frozen, self._mesh)
        vae = self._identity("vae")
        self.images = [EncodedImages(images, vae, store) for images in sets]
        self._jobs = [self._images_job(sets)]
        self.captions: EncodedCaptions | None = None
        if task.text is not None and not data.has_random_captions(config.data):
            encoders = [self._identity(name) for name in model.files.kind.text_encoders]
            skip = config.model.clip_skip
            self.captions = EncodedCaptions(model.tokenizers, encoders, skip, store)
            self._jobs.append(self._captions_job(self.captions, sets, task.text))

    def missing_bytes(self) -> int:
        """Returns how much the store will grow, at most."""
        total = 0
        for job in self._jobs:
            for keys in _of_one_shape(job, self._missing(job)):
                one = stack([job.load(job.items[keys[0]])])
                shapes = jax.tree.leaves(job.encode.eval_shape(self._frozen, one))
                total += len(keys) * sum(FLOAT32 * shape.size for shape in shapes)
        return total

    def run(self, progress: Progress) -> None:
        """Encodes what is missing.

        Raises:
          UserError: an image is missing, or its encoding cannot be written.
        """
        count = jax.process_count()
        for job in self._jobs:
            missing = self._missing(job)
            self._fill(job, missing[jax.process_index() :: count], progress)
            if count > 1:  # waits for the items of the others, if they share the folder
                distributed.any_process(False)
                self._fill(job, self._missing(job), progress)
            found = len(job.items) - len(missing)
            progress.stage(
                "encoded", f"{len(job.items)} {job.noun}, {found} of them found in the cache"
            )

    def _identity(self, name: str) -> str:
        network = self._model.networks[name]
        return identity(network, nnx.state(network))

    def _images_job(self, sets: Sequence[data.Images]) -> EncodeJob:
        """Returns the job of all images, and of mirror images if images are flipped at random."""
        items = {
            encoded.key(i, transform): (images, i, transform)
            for encoded, images in zip(self.images, sets, strict=True)
            for i in range(len(images))
            for transform in images.transforms(i)
        }

        def shape(item: tuple[data.Images, int, PixelTransform]) -> Hashable:
            _, _, transform = item
            return transform.fit.shape

        def load(item: tuple[data.Images, int, PixelTransform]) -> np.ndarray:
            images, i, transform = item
            return images.crop(i, transform)

        def named(moments: Moments) -> Arrays:
            return {name: array.astype(np.float32) for name, array in moments._asdict().items()}

        moments, rows = self._task.moments, rows_at_once(sets[0].cfg.resolution, self._mesh.size)
        assert moments is not None, "modes vae and ddpm encode nothing once"
        return EncodeJob("images", items, shape, load, moments, named, rows)

    def _captions_job(
        self, captions: EncodedCaptions, sets: Sequence[data.Images], text: Program
    ) -> EncodeJob:
        """Returns the job of all captions, and of the empty one."""
        texts = (caption for p in sets for i in range(len(p)) for caption in p.captions(i))
        items = {captions.key(caption): caption for caption in dict.fromkeys(["", *texts])}

        def shape(caption: str) -> Hashable:
            return None

        def named(states: TextStates) -> Arrays:
            return {name: array for name, array in states._asdict().items() if array is not None}

        rows = CAPTIONS_AT_ONCE * self._mesh.size
        return EncodeJob("captions", items, shape, captions.ids, text, named, rows)

    def _missing(self, job: EncodeJob) -> list[str]:
        return [key for key in job.items if not self._store.has(key)]

    def _fill(self, job: EncodeJob, keys: list[str], progress: Progress) -> None:
        with progress.count(len(keys), f"encoding {job.noun}") as shown:
            for part, arrays in self._encoded(job, keys):
                for row, key in enumerate(part):
                    self._store.write(key, {name: array[row] for name, array in arrays.items()})
                shown.update(shown.done + len(part))

    def _encoded(self, job: EncodeJob, keys: list[str]) -> Iterable[tuple[list[str], Arrays]]:
        """Yields chunks of keys with their rows; the next chunk is read while the devices work."""
        waiting: tuple[list[str], Any] | None = None
        rows = jax.NamedSharding(self._mesh, sharding.BATCH)
        with ThreadPoolExecutor(self._workers) as pool:
            for part in _parts(job, keys):
                loaded = list(pool.map(job.load, [job.items[key] for key in part]))
                loaded += loaded[:1] * (job.rows - len(part))  # padded: one compilation
                sharded = jax.device_put(stack(loaded), rows)
                now = part, job.encode(self._frozen, sharded)
                if waiting is not None:
                    yield waiting[0], job.named(jax.device_get(waiting[1]))
                waiting = now
        if waiting is not None:
            yield waiting[0], job.named(jax.device_get(waiting[1]))


def _of_one_shape(job: EncodeJob, keys: Sequence[str]) -> Iterator[list[str]]:
    for places in data.group_indices([job.shape(job.items[key]) for key in keys]):
        yield [keys[i] for i in places]


def _parts(job: EncodeJob, keys: Sequence[str]) -> Iterator[list[str]]:
    """Yields the keys of items that are encoded together."""
    for same in _of_one_shape(job, keys):
        for start in range(0, len(same), job.rows):
            yield same[start : start + job.rows]
