"""A run never goes on with other images than it began with."""

import re
import shutil

import pytest
from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import open_images
from flax_sd.errors import UserError
from flax_sd.run_folder import pictures as same_data
from tests.training_runs import contents, make_images


@pytest.fixture
def begun(tmp_path):
    """The folders of a run that has a checkpoint and of its five images."""
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "set").mkdir()
    folder = make_images(tmp_path / "set", 5)
    same_data.write(tmp_path / "run", opened(folder))
    return tmp_path / "run", folder


def opened(folder):
    return open_images(DataConfig(path=str(folder), resolution=32))


def caption(folder, old, new):
    path = folder / "metadata.jsonl"
    path.write_text(path.read_text().replace(old, new))


def add(folder):
    shutil.copy(folder / "1.png", folder / "more.png")
    path = folder / "metadata.jsonl"
    path.write_text(path.read_text() + '\n{"file_name": "more.png", "text": "x"}')


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda f: (f / "1.png").unlink(), ["missing: 1.png", "left out now: 1.png, "]),
        (lambda f: (f / "2.png").write_bytes(b"torn"), ["missing: 2.png", "left out now: 2.png, "]),
        (add, ["new: more.png"]),
        (lambda f: caption(f, "number 4", "no 4"), ["changed content, caption or mask: 4.png"]),
        (
            lambda f: Image.new("RGB", (40, 50)).save(f / "0.png"),
            ["changed content, caption or mask: 0.png"],
        ),
    ],
    ids=["gone", "torn", "new", "caption", "content"],
)
def test_what_became_of_them_is_named(begun, change, found):
    run, folder = begun
    same_data.check(run, opened(folder))
    change(folder)
    with pytest.raises(UserError, match="does not hold the images that") as error:
        same_data.check(run, opened(folder))
    assert all(re.search(re.escape(text), str(error.value)) for text in found), error.value


def test_a_image_that_is_listed_once_more_is_another(begun):
    run, folder = begun
    path = folder / "metadata.jsonl"
    path.write_text(path.read_text() + '\n{"file_name": "1.png", "text": "again"}')
    with pytest.raises(UserError, match="changed content, caption or mask: 1.png"):
        same_data.check(run, opened(folder))


def test_other_names_are_no_other_images_but_another_order_is(begun, tmp_path):
    """F30: which step shows what follows from the order, and from nothing in a name."""
    run, folder = begun
    for number in range(5):
        (folder / f"{number}.png").rename(folder / f"new-{number}.png")
    metadata = (folder / "metadata.jsonl").read_text().replace('e": "', 'e": "new-')
    (folder / "metadata.jsonl").write_text(metadata)
    same_data.check(run, opened(folder.rename(tmp_path / "moved")))
    (tmp_path / "moved/metadata.jsonl").write_text("\n".join(metadata.split("\n")[::-1]))
    with pytest.raises(UserError, match="missing: 0.png"):
        same_data.check(run, opened(tmp_path / "moved"))


def test_the_same_images_in_another_order(begun):
    run, folder = begun
    path = folder / "metadata.jsonl"
    path.write_text("\n".join(path.read_text().split("\n")[::-1]))
    with pytest.raises(UserError, match="the same images in another order"):
        same_data.check(run, opened(folder))


def test_before_the_first_checkpoint_they_may_be_others(begun):
    run, folder = begun
    shutil.rmtree(run / "checkpoints")
    (folder / "1.png").unlink()
    same_data.check(run, opened(folder))


def test_a_run_is_not_changed_by_what_it_refuses(train, tmp_path):
    (tmp_path / "set").mkdir()
    folder = make_images(tmp_path / "set", 4)
    flags = ["--data.path", folder]
    before = contents(train("a", *flags, "--train.steps", 2).folder)
    kept = (folder / "3.png").read_bytes()
    (folder / "3.png").unlink()
    run = train("a", *flags, "--train.steps", 4)
    assert run.status == 2 and "missing: 3.png" in run.err and contents(run.folder) == before
    (folder / "3.png").write_bytes(kept)
    assert train("a", *flags, "--train.steps", 4).status == 0
