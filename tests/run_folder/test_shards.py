"""A run over shards: what it keeps, what it refuses, and the same bytes after an interruption."""

import json

import pytest

from flax_sd import cli
from flax_sd.config import Config
from flax_sd.data import find_shards
from flax_sd.errors import UserError
from flax_sd.run_folder.layout import QUARANTINE, SHARDS
from flax_sd.system.progress import Progress
from flax_sd.training.inputs.datasets import make_stream, open_sets
from tests.data.made_shards import samples, write_tar
from tests.training_runs import contents


@pytest.fixture
def shards(tmp_path):
    """Three of 3, 4 and 5 images, one of which cannot be read."""
    for k, numbers in enumerate([range(3), range(3, 7), range(7, 12)]):
        files = samples(numbers, (40, 50))
        if k == 1:
            files["004.png"] = b"torn"
        write_tar(tmp_path / "set" / f"{k}.tar", files)
    return tmp_path / "set"


@pytest.fixture
def stream(shards, tmp_path):
    """Makes the stream of a run in a folder that is there."""
    (tmp_path / "run").mkdir()

    def make(seed=0):
        data = {"path": str(shards), "stream": True, "resolution": 32}
        config = Config.model_validate(
            {"data": data, "train": {"batch_size": 2}, "seed": seed, "output": tmp_path / "run"}
        )
        made = make_stream(config, open_sets(config), Progress())
        assert made is not None
        made.ledger.begin()
        return made

    return make


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def take(stream, count, start=0):
    batches = stream.batches(start)
    taken = [next(batches).captions for _ in range(count)]
    batches.close()
    return taken


def test_the_seed_orders_a_shard(stream):
    first, again, other = (take(stream(seed), 2) for seed in (0, 0, 1))
    assert first == again != other


def test_the_ledger_remembers_shards_and_what_was_left_out(stream, shards, tmp_path):
    run = tmp_path / "run"
    whole = take(stream(), 9)
    listed, known = lines(run / SHARDS)[:3], lines(run / SHARDS)[3:]
    assert [each["size"] for each in listed] == [s.size for s in find_shards(str(shards))]
    assert {each["shard"][-5:]: each["steps"] for each in known} == dict(
        zip(["0.tar", "1.tar", "2.tar"], [2, 2, 3], strict=True)
    )
    bad = {"set": str(shards / "1.tar"), "file": "004.png"}
    bad["reason"] = "not an image that Pillow can read"
    assert lines(run / QUARANTINE) == [bad]
    (run / QUARANTINE).unlink()  # as the check before a run writes it anew
    assert take(stream(), 5, 4) == whole[4:]
    assert lines(run / QUARANTINE) == [bad] and lines(run / SHARDS)[3:] == known


def test_a_torn_line_is_of_a_shard_that_is_opened_again(stream, tmp_path):
    whole, path = take(stream(), 9), tmp_path / "run" / SHARDS
    text = path.read_text()
    path.write_text(text[:-20])
    assert take(stream(), 9) == whole
    assert sorted(path.read_text().splitlines()) == sorted(text.splitlines())


def test_other_shards_than_the_run_began_with_are_named(stream, shards):
    take(stream(), 1)
    (shards / "0.tar").rename(shards / "3.tar")
    write_tar(shards / "2.tar", samples(range(60)))
    with pytest.raises(UserError) as caught:
        stream()
    for named in ("missing: ", "0.tar; new: ", "3.tar; changed size: ", "2.tar)"):
        assert named in str(caught.value)


def test_a_first_shard_without_a_good_image_is_refused(stream, shards):
    write_tar(shards / "0.tar", {"1.png": b"torn", "1.txt": "x"})
    with pytest.raises(UserError, match="the first of 3 shards, .*: 1.png: not an image"):
        stream()


def test_check_data_opens_every_shard(config_file, shards, tmp_path, capsys):
    (shards / "notes.md").write_text("x")
    write_tar(shards / "2.tar", {**samples([8]), "9.cls": "3"})
    out = tmp_path / "checked"
    flags = ["--data.path", str(shards), "--data.stream", "true", "--output", str(out)]
    assert cli.check_data([str(config_file), *flags]) == 1
    said = capsys.readouterr().out
    assert "3 shards; all were opened" in said and "0.tar: 3 images, 3 captions" in said
    assert "1.tar (1):\n  004.png: not an image" in said
    assert "2.tar (1):\n  9.cls: no image has this key" in said
    assert f"{shards}/notes.md: no shard: .tar" in said
    assert [line["file"] for line in lines(out / QUARANTINE)] == ["004.png"]


def test_an_interrupted_run_ends_in_the_same_bytes(train, shards):
    flags = ("--data.path", shards, "--data.stream", "true")
    whole = train("whole", *flags, "--train.steps", 5)
    assert whole.status == 0 and "an encoded stream would fill the disk" in whole.out
    cut = train("cut", *flags, "--train.steps", 3)  # in the middle of the second shard
    cut = train("cut", *flags, "--train.steps", 5)
    assert "resumes: step 3" in cut.out
    for name in ("lora.safetensors", QUARANTINE, SHARDS):
        assert (cut.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    assert [m["loss"] for m in cut.metrics()] == [m["loss"] for m in whole.metrics()]
    (noted,) = json.loads((whole.folder / "environment.json").read_text())
    assert noted["data"]["train"]["shards"] == 3
    before = contents(whole.folder)
    assert "is finished at step 5" in train("whole", *flags, "--train.steps", 5).out
    assert contents(whole.folder) == before
