"""Images of a class that a run draws before its first step."""

import json

import pytest

from flax_sd import cli
from flax_sd.errors import UserError
from flax_sd.system.progress import Progress
from flax_sd.training.inputs import class_images
from tests.training_runs import contents, make_images

SIZE = ("--data.class_images", 2, "--train.steps", 2)


@pytest.fixture
def flags(tmp_path):
    return ["--data.regularisation", tmp_path / "class", "--data.class_prompt", "a cat", *SIZE]


def test_they_are_what_the_sampling_command_draws_and_are_trained_on(train, tmp_path, model, flags):
    run = train("a", *flags)
    assert run.status == 0, run.err
    by_hand = tmp_path / "by hand"
    args = ["--model", model, "--prompt", "a cat", "--images-per-prompt", 2, "--out", by_hand]
    assert cli.sample([*map(str, args)]) == 0
    assert contents(tmp_path / "class") == contents(by_hand) != {}
    without = train("b", "--train.steps", 2)
    assert run.metrics()[0]["loss"] != without.metrics()[0]["loss"]
    assert "class/00000_seed0.png" in (run.folder / "data_report.html").read_text("utf-8")


def test_they_are_drawn_once(train, tmp_path, flags):
    folder = tmp_path / "class"
    assert train("a", *flags).status == 0
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    (first, second) = sorted(before)
    second.unlink()  # as after a kill
    run = train("b", *flags)
    assert run.status == 0 and "2 images to generate, 1 already there" in run.out
    assert first.stat().st_mtime_ns == before[first] and second.exists()


def test_checking_draws_nothing(config_file, tmp_path, capsys, flags):
    args = [str(config_file), "--output", str(tmp_path / "run"), *map(str, flags)]
    assert cli.check_data(args) == 0
    assert "(data.regularisation) are not generated yet" in capsys.readouterr().out
    assert not (tmp_path / "class").exists()


def test_images_of_the_users_are_not_hidden(train, tmp_path, flags):
    folder = tmp_path / "class"
    folder.mkdir()
    make_images(folder, 2)
    (folder / "metadata.jsonl").unlink()
    run = train("a", *flags)
    assert run.status == 2 and "holds 0.png, which data.class_prompt did not generate" in run.err
    assert sorted(path.name for path in folder.iterdir()) == ["0.png", "1.png"]


def test_listed_images_stay_beside_them(train, tmp_path, flags):
    folder = tmp_path / "class"
    folder.mkdir()
    make_images(folder, 2)
    assert train("a", *flags).status == 0
    lines = (folder / "metadata.jsonl").read_text("utf-8").splitlines()
    names = [json.loads(line)["file_name"] for line in lines]
    assert names == ["0.png", "00000_seed0.png", "00000_seed1.png", "1.png"]


def test_a_prompt_without_a_folder_is_refused(train):
    run = train("a", "--data.class_prompt", "a cat")
    assert run.status == 2 and "class_prompt without effect beside the other options" in run.err


def test_several_processes_want_them_drawn_before(parse, tmp_path, monkeypatch, capsys, flags):
    config = parse(*flags)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(
        UserError, match="generate the class images before it, with flax-sd sample --model .*class$"
    ):
        class_images.generate(config, Progress())
    (tmp_path / "class").mkdir()
    make_images(tmp_path / "class", 2)
    class_images.generate(config, Progress())
    assert capsys.readouterr().out == ""  # they are taken as they are
