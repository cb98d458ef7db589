import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import batches, open_images
from flax_sd.data.order import image_of, permutation
from flax_sd.errors import UserError
from tests.threads import meeting

SEEDS = st.integers(0, 2**63 - 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for i in range(5):
        pixels = generator.integers(0, 256, (9 + i, 14, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"{i} a\n{i} b\n")
    return open_images(DataConfig(path=str(folder), resolution=8, random_flip=True))


def take(images, steps, batch_size, **options):
    iterator = batches(images, batch_size, **{"seed": 3, **options})
    try:
        return list(itertools.islice(iterator, steps))
    finally:
        iterator.close()
        for thread in reading_threads():  # beartype in a thread disturbs hypothesis' random state
            thread.join(timeout=20)


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    assert ours.captions == theirs.captions


@settings(deadline=None)
@given(count=st.integers(1, 60), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(count, seed, epoch):
    drawn = [image_of(epoch * count + n, count, seed) for n in range(count)]
    assert sorted(drawn) == list(range(count))
    permutation.cache_clear()
    assert drawn == [image_of(epoch * count + n, count, seed) for n in range(count)]


def test_epochs_and_seeds_differ():
    orders = {tuple(permutation(50, seed, epoch)) for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36


def test_each_image_comes_equally_often_at_each_place():
    counts = np.zeros((4, 4))
    for epoch in range(2000):
        counts[np.arange(4), permutation(4, 5, epoch)] += 1
    assert np.abs(counts - 500).max() < 90  # 19 a standard deviation


def test_the_order_stays_what_it_is():
    # Written down once: a run must draw the same after an upgrade too.
    assert [image_of(n, 7, 0) for n in range(14)] == [4, 2, 6, 5, 0, 1, 3, 0, 1, 5, 4, 6, 2, 3]


@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 7), start=st.integers(0, 50), seed=SEEDS)
def test_steps_are_slices_of_the_stream(images, size, start, seed):
    for step, batch in enumerate(take(images, 3, size, seed=seed, start_step=start), start):
        samples = range(step * size, (step + 1) * size)
        assert list(batch.indices) == [image_of(n, len(images), seed) for n in samples]
        for row, i in enumerate(batch.indices):
            expected = images.load(int(i), seed=seed, sample=step * size + row)
            np.testing.assert_array_equal(batch.images[row], expected)


@settings(max_examples=15, deadline=None)
@given(local=st.integers(1, 3), count=st.integers(1, 4), seed=SEEDS)
def test_processes_partition_the_batch(images, local, count, seed):
    options = {"seed": seed, "start_step": 4}
    (whole,) = take(images, 1, local * count, **options)
    # B1: a process's devices may hold any rows of the batch, as a TPU's mesh has them.
    parts = np.random.default_rng(seed).permutation(local * count).reshape(count, local)
    parts = [np.sort(rows) for rows in parts]
    shares = [take(images, 1, local * count, rows=rows, **options)[0] for rows in parts]
    assert [len(share.captions) for share in shares] == [local] * count
    back = np.argsort(np.concatenate(parts))
    joined = [np.concatenate(leaves)[back] for leaves in list(zip(*shares, strict=True))[:4]]
    np.testing.assert_array_equal(joined[0], whole.images)
    assert list(joined[1]) == whole.captions
    np.testing.assert_array_equal(joined[2], whole.indices)
    np.testing.assert_array_equal(joined[3], whole.samples)


def test_batch(images):
    (batch,) = take(images, 1, 3)
    assert batch.images.shape == (3, 8, 8, 3) and batch.images.dtype == np.float32
    assert batch.indices.dtype == np.int64
    assert [caption[0] for caption in batch.captions] == [str(i) for i in batch.indices]


def test_an_epoch_leaves_no_image_out(images):
    drawn = np.concatenate([batch.indices for batch in take(images, 10, 2)])
    assert sorted(drawn) == sorted(list(range(5)) * 4)


def test_a_resumed_stream_goes_on_where_it_was(images):
    whole = take(images, 9, 2)
    for ours, theirs in zip(take(images, 4, 2, start_step=5), whole[5:], strict=True):
        assert_same(ours, theirs)


def test_the_number_of_threads_changes_nothing(folder, config):
    streams = [take(open_images(config(folder, workers=n)), 12, 3) for n in (1, 5)]
    for ours, theirs in zip(*streams, strict=True):
        assert_same(ours, theirs)


def test_an_image_is_cropped_anew_each_time(images):
    first = {}
    for batch in take(images, 20, 1):
        first.setdefault(int(batch.indices[0]), []).append(batch.images.tobytes())
    assert all(len(set(cuts)) > 1 for cuts in first.values())


def test_a_image_that_fails_later_stops_the_stream_by_name(folder, config):
    images = open_images(config(folder))
    (folder / "2.png").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"^2\.png could be read when the run began"):
        take(images, 5, 1)


def test_threads_read_ahead_and_end_with_the_stream(images):
    iterator = batches(images, 2, seed=0)
    next(iterator)
    ours = reading_threads()
    assert ours
    iterator.close()
    for thread in ours:
        thread.join(timeout=20)
    assert reading_threads() == []


def test_so_many_threads_read_ahead(folder, config, monkeypatch):
    images = open_images(config(folder, workers=4))
    monkeypatch.setattr(images, "load", meeting(images.load, 4))
    assert len(take(images, 1, 1)) == 1
