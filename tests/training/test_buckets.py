"""A run on images of several shapes: the same encoded once or at each step, and resumed."""

import contextlib
import itertools

import jax
import pytest
from PIL import Image

from flax_sd.config.file import parse
from flax_sd.system import sharding
from flax_sd.system.progress import Progress
from flax_sd.training.inputs import batches as inputs
from flax_sd.training.inputs.batches import feed
from flax_sd.training.inputs.datasets import open_sets
from flax_sd.training.run import total_steps
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import make_task
from tests.parity import LAYER, assert_close
from tests.training_runs import contents, make_images


@pytest.fixture
def shapes(tmp_path):
    """Five images that become squares, and two that become upright."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    make_images(folder, 7)
    for i in range(7):
        size = (40, 40) if i < 5 else (40, 65)
        Image.open(folder / f"{i}.png").resize(size).save(folder / f"{i}.png")
    return folder


def test_a_resumed_run_ends_in_the_same_bytes(train, shapes):
    flags = ["--data.path", shapes, "--data.buckets", "area", "--train.batch_size", 3]
    whole = train("whole", *flags)
    assert whole.status == 0, whole.err
    assert "2 shapes, 1.1% of the area cropped: 32 x 32 (5 images), 24 x 40 (2" in whole.out
    assert "the training step at 32 x 32" in whole.out and "at 24 x 40" in whole.out
    assert "24 x 40" in (whole.folder / "data_report.html").read_text()
    train("again", *flags, "--train.steps", 2)
    again = train("again", *flags)
    assert "resumes: step 2" in again.out
    name = "lora.safetensors"
    assert contents(again.folder)[name] == contents(whole.folder)[name]


@pytest.mark.slow
def test_encoding_once_gives_the_batches_of_each_step(config_file, shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = ["--data.path", str(shapes), "--data.buckets", "area", "--train.batch_size", "3"]
    flags += ["--data.center_crop", "true", "--data.random_flip", "true", "--train.steps", "9"]
    mesh, fed = sharding.make_mesh(-1, 1), []
    for once in ("true", "false"):
        config = parse(config_file, [*flags, "--data.encode_once", once])
        parts = load_model(config, "float32")
        prepared = inputs.prepare(
            config, make_task(config, parts), parts, open_sets(config), mesh, Progress()
        )
        assert isinstance(prepared.train, inputs.FromCache) == (once == "true")
        with contextlib.closing(feed(config, prepared.train, mesh)) as batches:
            fed.append(list(itertools.islice(batches, 6)))
    for ours, theirs in zip(*fed, strict=True):
        assert ours[1:] == theirs[1:]
        for a, b in zip(jax.tree.leaves(ours.batch), jax.tree.leaves(theirs.batch), strict=True):
            assert_close(a, b, LAYER)
    assert {(each.shape, each.images) for each in fed[0]} == {
        ((32, 32), 3),
        ((32, 32), 2),
        ((24, 40), 2),
    }


def test_epochs_count_the_batches_of_each_shape(config_file, shapes):
    flags = ["--data.path", str(shapes), "--train.epochs", "3", "--train.steps", "100"]
    flags += ["--train.batch_size", "4"]
    config = parse(config_file, flags)
    assert total_steps(config, open_sets(config).train) == 6  # 21 images
    config = parse(config_file, [*flags, "--data.buckets", "kohya"])
    assert total_steps(config, open_sets(config).train) == 9  # 5 and 2 images, 3 times
