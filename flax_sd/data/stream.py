"""The endless stream of batches from shards, one after another.

A visit is one shard trained on once. Visits are numbered; an epoch is a visit to each shard, in an
order drawn from (seed, epoch); and visit v is to the images of its shard what epoch v is to those
of a folder, but that no batch goes over its end (`Order`). So the batch of a step follows from the
seed, the step, and how many steps the shards before it take.
"""

import concurrent.futures
import contextlib
import itertools
import threading
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from flax_sd.data.batches import Batch, batches
from flax_sd.data.dataset import Images
from flax_sd.data.order import SHARDS, Order, permutation
from flax_sd.data.shards import Shard
from flax_sd.errors import UserError

STRIDE = 2**32  # of the numbers of samples, from visit to visit; no shard has more images
Opener = Callable[[Shard, threading.Event], Images]  # which gives up when the event is set


class Counted(NamedTuple):
    """The known facts of a shard that was opened once."""

    steps: int
    fingerprint: str  # of its images


@runtime_checkable  # needed by the shape-checked tests
class Ledger(Protocol):
    """Remembers shards from one start of a run to the next."""

    def begin(self) -> None:
        """Prepares the records, once the run's folder exists."""
        ...

    def get(self, shard: Shard) -> Counted | None:
        """Returns the known facts of a shard, if any."""
        ...

    def note(self, shard: Shard, images: Images, counted: Counted) -> None:
        """Records the facts of a shard that was not known."""
        ...


class Stream:
    """The batches of shards; one is in memory while the next is opened in a thread.

    Attributes:
      ledger: what it knows of them.

    Args:
      opener: opens a shard, whose images may be none; some shard must have one.
      batch_size: rows of a step, over all processes.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        opener: Opener,
        ledger: Ledger,
        *,
        batch_size: int,
        seed: int,
    ):
        self._shards, self._opener, self.ledger = shards, opener, ledger
        self._batch_size, self._seed = batch_size, seed
        self._at_hand: tuple[Shard, Images] | None = None  # the last one that was asked for

    def batches(
        self, start_step: int = 0, *, rows: Int64[np.ndarray, " r"] | None = None
    ) -> Generator[Batch, None, None]:
        """Yields the batches from `start_step` on.

        Args:
          rows: those of each step that this process's devices hold; all if None.

        Raises:
          UserError: from the iterator: as `batches`; a shard is gone or is another.
        """
        first, before = self._find(start_step)
        start, stop = start_step - before, threading.Event()
        try:
            for visit in itertools.count(first):
                images = self._images(self._shard(visit))
                ahead = self._open_ahead(self._shard(visit + 1), stop)
                steps = self._steps(self._shard(visit))
                if steps:
                    shown = batches(
                        images,
                        self._batch_size,
                        seed=self._seed,
                        start_step=visit * steps + start,
                        stop_step=(visit + 1) * steps,
                        stride=STRIDE,
                        rows=rows,
                    )
                    with contextlib.closing(shown):
                        yield from shown
                start = 0
                self._at_hand = self._shard(visit + 1), ahead.result()
        finally:
            stop.set()

    def names(self, step: int) -> list[str]:
        """Returns the names of a step's images, counted from 0, each once and with its shard."""
        visit, before = self._find(step)
        shard = self._shard(visit)
        images, place = self._images(shard), visit * self._steps(shard) + step - before
        return [f"{shard.name}/{images.names[i]}" for i in self._order(images).shown(place)]

    def _find(self, step: int) -> tuple[int, int]:
        """Returns the visit that contains a step, and the number of steps before it."""
        visit = before = 0
        while step >= before + self._steps(self._shard(visit)):
            before += self._steps(self._shard(visit))
            visit += 1
        return visit, before

    def _shard(self, visit: int) -> Shard:
        epoch, place = divmod(visit, len(self._shards))
        return self._shards[permutation(len(self._shards), self._seed, epoch, SHARDS)[place]]

    def _steps(self, shard: Shard) -> int:
        """Returns the number of steps in a visit to a shard."""
        known = self.ledger.get(shard)
        return self._counted(self._images(shard)).steps if known is None else known.steps

    def _images(self, shard: Shard) -> Images:
        """Returns the images of a shard, after comparing them with what is known of it.

        Raises:
          UserError: they are others than the run has seen.
        """
        if self._at_hand is None or self._at_hand[0] != shard:
            self._at_hand = shard, self._opener(shard, threading.Event())
        images = self._at_hand[1]
        known, counted = self.ledger.get(shard), self._counted(images)
        if known is None:
            self.ledger.note(shard, images, counted)
        elif known != counted:
            raise UserError(
                f"{shard.name} holds other images or captions than this run has seen in it: put "
                "it back as it was, and run the same command again to resume, or begin a new run"
            )
        return images

    def _counted(self, images: Images) -> Counted:
        steps = self._order(images).steps(1) if len(images) else 0
        return Counted(steps, images.fingerprint())

    def _order(self, images: Images) -> Order:
        return Order(images, self._batch_size, self._seed, STRIDE)

    def _open_ahead(self, shard: Shard, stop: threading.Event) -> concurrent.futures.Future[Images]:
        """Opens a shard in a daemon thread, which does not delay the end of the process."""
        opened: concurrent.futures.Future[Images] = concurrent.futures.Future()
        if self._at_hand is not None and self._at_hand[0] == shard:
            opened.set_result(self._at_hand[1])
            return opened

        def work() -> None:
            try:
                opened.set_result(self._opener(shard, stop))
            except BaseException as error:  # raised again where the result is asked for
                opened.set_exception(error)

        threading.Thread(target=work, name="opens-a-shard", daemon=True).start()
        return opened
