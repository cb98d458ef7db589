"""Batches of shards: each image once an epoch, and all of it drawn from (seed, step)."""

import collections
import contextlib
import itertools
import threading

import numpy as np
import pytest

from flax_sd.data import Stream, batches, find_shards, open_images, open_shard
from flax_sd.errors import UserError
from tests.data.made_shards import png, samples, write_tar

SIZES = [(24, 12), (12, 24), (16, 16), (24, 12), (16, 16), (16, 16), (24, 12)]


class Notes:
    """A ledger in memory."""

    def __init__(self):
        self.known = {}

    def begin(self):
        pass

    def get(self, shard):
        return self.known.get(shard)

    def note(self, shard, images, counted):
        assert shard not in self.known
        self.known[shard] = counted


@pytest.fixture
def make(tmp_path, config):
    """Makes streams of three shards of 3, 4 and 5 images, and says what they open."""
    for k, numbers in enumerate([range(3), range(3, 7), range(7, 12)]):
        write_tar(tmp_path / "set" / f"{k}.tar", samples(numbers))
    opened = []

    def stream(*, seed=0, notes=None, path=tmp_path / "set", batch_size=2, **options):
        cfg = config(path, stream=True, **options)

        def opener(shard, stop):
            opened.append(shard.name.rsplit("/")[-1])
            return open_shard(shard, cfg, stop=stop)

        notes = Notes() if notes is None else notes
        shards = find_shards(str(path))
        return Stream(shards, opener, notes, batch_size=batch_size, seed=seed)

    stream.opened = opened
    return stream


def take(stream, count, start=0, **share):
    with contextlib.closing(stream.batches(start, **share)) as made:
        return list(itertools.islice(made, count))


def captions(batch):
    """Those of the rows that are no copies."""
    rows = range(len(batch.captions)) if batch.weight is None else np.flatnonzero(batch.weight)
    return [batch.captions[i] for i in rows]


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.samples, theirs.samples)
    np.testing.assert_array_equal(ours.weight, theirs.weight)
    assert ours.captions == theirs.captions and ours.real == theirs.real


def test_an_epoch_shows_every_image_once_shard_by_shard(make):
    taken = take(make(), 3 * 7)  # 2, 2 and 3 steps
    orders = set()
    for epoch in range(3):
        shown = [captions(batch) for batch in taken[7 * epoch : 7 * epoch + 7]]
        numbers = [int(text.split()[1]) for step in shown for text in step]
        assert sorted(numbers) == list(range(12))
        of = [0 if n < 3 else 1 if n < 7 else 2 for n in numbers]
        assert [key for key, _ in itertools.groupby(of)] == list(dict.fromkeys(of))
        orders.add(tuple(dict.fromkeys(of)))
        assert sum(batch.real for batch in taken[7 * epoch : 7 * epoch + 7]) == 12
    assert len(orders) > 1


def test_samples_and_seeds_differ(make):
    taken = take(make(), 21)
    numbers = [n for batch in taken for n in set(batch.samples.tolist())]
    assert len(set(numbers)) == len(numbers)
    firsts = {tuple(captions(b)[0] for b in take(make(seed=s), 7)) for s in range(5)}
    assert len(firsts) == 5


def test_the_order_stays_what_it_is(make):
    # Written down once: a run must draw the same after an upgrade too.
    shown = [[int(text.split()[1]) for text in captions(b)] for b in take(make(seed=3), 8)]
    assert shown == [[6, 4], [5, 3], [1], [0, 2], [7, 8], [11], [10, 9], [3, 4]]


def test_a_resumed_stream_goes_on_where_it_was(make):
    notes = Notes()
    whole = take(make(notes=notes, random_flip=True), 16)
    for start in (1, 5, 9):
        for known in (notes, Notes()):  # which it is told, or counts
            resumed = take(make(notes=known, random_flip=True), 16 - start, start)
            for ours, theirs in zip(resumed, whole[start:], strict=True):
                assert_same(ours, theirs)


def test_a_resumed_stream_opens_no_shard_that_is_behind_it(make):
    notes = Notes()
    take(make(notes=notes), 7)
    order = list(dict.fromkeys(make.opened))
    make.opened.clear()
    take(make(notes=notes), 1, 4)  # 3 shards of 2, 2 and 3 steps: the last, or the middle one
    assert order[0] not in make.opened[:1] and len(make.opened) <= 2


def test_one_shard_at_a_time_and_the_next_ahead(make):
    stream = make()
    with contextlib.closing(stream.batches()) as made:
        next(made)
        for _ in range(100):
            if len(make.opened) == 2:
                break
            threading.Event().wait(0.05)
        assert len(make.opened) == 2 and len(set(make.opened)) == 2
        for _ in range(7):
            next(made)
    assert len(make.opened) <= 5


def test_processes_share_a_batch_of_one_shard(make):
    whole = take(make(batch_size=4, random_flip=True), 6)
    parts = [np.array([0, 3]), np.array([1, 2])]
    shares = [take(make(batch_size=4, random_flip=True), 6, rows=rows) for rows in parts]
    for step, batch in enumerate(whole):
        for rows, share in zip(parts, shares, strict=True):
            np.testing.assert_array_equal(share[step].images, batch.images[rows])
            assert share[step].captions == [batch.captions[row] for row in rows]


def test_one_shard_of_the_whole_set_is_the_folder(tmp_path, make, config):
    folder, files = tmp_path / "folder", {}
    folder.mkdir()
    for i, size in enumerate(SIZES):
        files |= {f"{i}.png": png(i, size), f"{i}.txt": f"{i} a\n{i} b"}
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    path = write_tar(tmp_path / "one" / "s.tar", files)
    options = {"resolution": 16, "buckets": "area", "bucket_step": 8}
    for drawn in (True, False):  # numbers of samples differ from the second epoch on
        options |= {"random_flip": drawn, "center_crop": not drawn}
        steps = 5 if drawn else 15
        stream = take(make(path=path, **options), steps)
        with contextlib.closing(batches(open_images(config(folder, **options)), 2, seed=0)) as of:
            for ours, theirs in zip(stream, itertools.islice(of, steps), strict=True):
                np.testing.assert_array_equal(ours.images, theirs.images)
                np.testing.assert_array_equal(ours.indices, theirs.indices)
                np.testing.assert_array_equal(ours.weight, theirs.weight)
                assert not drawn or ours.captions == theirs.captions


def test_bad_shards_are_passed(make, tmp_path):
    write_tar(tmp_path / "set" / "1.tar", {"1.png": b"torn", "1.txt": "x"})
    counts = collections.Counter(text for b in take(make(), 10) for text in captions(b))
    assert counts == {f"caption {i}": 2 for i in [*range(3), *range(7, 12)]}


def test_names_of_a_step_are_those_it_shows(make):
    stream = make()
    for step, batch in enumerate(take(stream, 9)):
        shown = {f"{int(name[-7:-4])}" for name in stream.names(step)}
        assert shown == {text.split()[1] for text in batch.captions}
        assert "/set/" in stream.names(step)[0] and ".tar/" in stream.names(step)[0]


def test_a_shard_that_changed_is_named(make, tmp_path):
    notes = Notes()
    take(make(notes=notes), 7)
    other = samples(range(3))
    write_tar(tmp_path / "set" / "0.tar", {**other, "001.txt": "caption X"})
    with pytest.raises(UserError, match="0.tar holds other images or captions"):
        take(make(notes=notes), 7)


def test_a_shard_that_vanishes_ends_the_stream_by_name(make, tmp_path):
    stream = make()
    with contextlib.closing(stream.batches()) as made:
        next(made)
        for k in range(3):
            (tmp_path / "set" / f"{k}.tar").unlink()
        with pytest.raises(UserError, match="tar cannot be read.*run the same command"):
            for _ in range(14):
                next(made)
