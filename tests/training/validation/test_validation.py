"""Runs that are measured while they train."""

import json
import shutil

import pytest

from flax_sd import cli
from flax_sd.config import DataConfig
from flax_sd.config import file as config_file
from flax_sd.config.section import TrainingOnly, marks
from flax_sd.run_folder.layout import BASE_LOSS, TRAIN_SUBSET, VAL_LOSS
from flax_sd.training.inputs.datasets import open_sets, too_few_evaluated
from tests.training_runs import Ended, contents, make_images, metrics

STEPS = ["--train.steps", "5", "--validation.every", "2", "--checkpoint.every", "3"]


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("held"), 3, seed=5)


@pytest.fixture(scope="module")
def validated(config_file, held, tmp_path_factory, compile_cache):
    """A run of five steps, measured after each second one."""
    folder = tmp_path_factory.mktemp("runs") / "validated"
    flags = ["--output", folder, *STEPS, "--data.held_out", held]
    flags += ["--log.tensorboard", "true", "--log.every", "3"]
    assert cli.train([str(config_file), *map(str, flags)]) == 0
    return Ended(0, folder, "", "")


def lines(folder):
    text = (folder / "validation.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_it_measures_both_sets_while_it_trains(validated):
    found = lines(validated.folder)
    expected = [(step, name) for step in (0, 2, 4, 5) for name in (VAL_LOSS, TRAIN_SUBSET)]
    assert [(line["step"], line["set"]) for line in found] == expected
    assert {line["count"] for line in found} == {3}
    assert len({line["mean"] for line in found}) == len(found)
    logged = {line["step"]: line for line in metrics(validated.folder)}
    assert list(logged) == [0, 2, 3, 4, 5] and VAL_LOSS not in logged[3]
    for line in found:
        row = logged[line["step"]]
        assert row[line["set"]] == line["mean"] and row[f"{line['set']}_ci"] == line["ci95"]
        assert row.get(f"{line['set']}_change_ci") == line["change_ci95"]


@pytest.mark.slow
def test_the_trackers_get_the_figures_and_the_courses(validated):
    (events,) = (path.read_bytes() for path in (validated.folder / "tensorboard").iterdir())
    for name in (b"val_loss", b"val_loss_change", b"train_subset_ci", b"train_subset/t900-999"):
        assert name in events


@pytest.fixture
def sets(config_file_path):
    return lambda *flags: open_sets(config_file.parse(config_file_path, list(map(str, flags))))


@pytest.fixture
def config_file_path(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {resolution: 32}")
    return path


def test_as_many_training_images_are_measured(sets, tmp_path, held):
    folder = tmp_path / "data"
    folder.mkdir()
    flags = ["--data.path", make_images(folder, 7), "--data.held_out", held]
    assert TRAIN_SUBSET not in sets(*flags).evaluated
    flags += ["--validation.every", 2, "--data.random_flip", "true"]
    before = sets(*flags)
    chosen = before.evaluated[TRAIN_SUBSET]
    assert len(chosen) == 3 < len(before.train) and set(chosen.names) < set(before.train.names)
    assert chosen.cfg.center_crop and not chosen.cfg.random_flip
    # A larger set keeps most of those that were chosen: names alone decide.
    after = sets(*flags[:1], make_images(folder, 9), *flags[2:])
    assert len(set(after.evaluated[TRAIN_SUBSET].names) & set(chosen.names)) >= 2


def test_a_trigger_word_is_not_in_what_the_model_drew_before(sets, tmp_path, held):
    """A6: in those captions it would make learning the style look like forgetting."""
    (tmp_path / "data").mkdir()
    path = make_images(tmp_path / "data", 7)
    flags = ["--data.path", path, "--data.held_out", held, "--data.held_out_base", held]
    found = sets(*flags, "--data.template", "sks, {}")
    assert found.train.captions(0) == ("sks, image number 0",)
    assert found.evaluated[VAL_LOSS].captions(0) == ("sks, image number 0",)
    assert found.evaluated[BASE_LOSS].captions(0) == ("image number 0",)
    assert too_few_evaluated(found)[0].startswith(
        "val_loss is evaluated on 3 images: with fewer than 10"
    )


def test_each_option_of_the_images_holds_for_measured_ones_or_is_marked():
    """A6: a new option is to be decided about, here and at its field."""
    shared = {"path", "resolution", "buckets", "bucket_step", "bucket_min", "bucket_max"}
    shared |= {"bucket_upscale", "center_crop", "interpolation", "background", "template"}
    shared |= {"wildcards", "image_column", "caption_column", "on_bad", "workers", "encode_once"}
    shared |= {"tag_separator", "keep_separator", "group_separator", "max_token_length"}
    assert shared | {*marks(DataConfig, TrainingOnly)} == DataConfig.model_fields.keys()
    assert not shared & {*marks(DataConfig, TrainingOnly)}


def test_images_of_the_class_are_not_measured(sets, tmp_path, held):
    """A4."""
    own, prior = tmp_path / "own", tmp_path / "prior"
    own.mkdir()
    prior.mkdir()
    make_images(prior, 9, seed=7)
    flags = ["--data.path", make_images(own, 3), "--data.regularisation", prior]
    flags += ["--data.held_out", held, "--validation.every", 2]
    chosen = sets(*flags).evaluated[TRAIN_SUBSET]
    assert chosen.names == ("0.png", "1.png", "2.png") and not any(chosen.prior)


def test_measuring_nothing_again_and_again_is_refused(config_file_path):
    with pytest.raises(Exception, match=r"validation\.every without data\.held_out"):
        config_file.parse(config_file_path, ["--validation.every", "2"])
    base = ["--validation.every", "2", "--data.held_out_base", "x"]
    config_file.parse(config_file_path, base)
    with pytest.raises(Exception, match=r"validation\.patience without"):
        config_file.parse(config_file_path, [*base, "--validation.patience", "2"])


@pytest.mark.slow
def test_the_best_state_is_kept_and_ends_as_a_result(validated):
    folder = validated.folder
    best = min((line["mean"], line["step"]) for line in lines(folder) if line["set"] == VAL_LOSS)
    step = min((x["mean"], x["step"]) for x in lines(folder) if x["set"] == VAL_LOSS and x["step"])
    assert best[0] <= step[0]
    saved = (folder / "loras" / f"step-{step[1]:06d}.safetensors").read_bytes()
    assert (folder / "lora_best.safetensors").read_bytes() == saved
    assert (folder / "lora_best_peft.safetensors").is_file()
    assert (folder / "checkpoints" / str(step[1])).is_dir()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_best_and_a_finished_one_changes_nothing(
    validated, config_file, held, tmp_path
):
    folder = tmp_path / "again"
    shutil.copytree(validated.folder, folder)
    for path in (folder / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > 3:
            shutil.rmtree(path)
    for name in ("lora_best.safetensors", "finished.json"):
        (folder / name).unlink()
    flags = [*STEPS, "--data.held_out", held, "--log.tensorboard", "true", "--log.every", "3"]
    command = [str(config_file), "--output", str(folder), *map(str, flags)]
    assert cli.train(command) == 0
    for name in ("validation.jsonl", "validation_pictures.jsonl", "lora_best.safetensors"):
        assert (folder / name).read_bytes() == (validated.folder / name).read_bytes(), name
    whole = contents(folder)
    (folder / "lora_best.safetensors").unlink()
    assert cli.train(command) == 0
    assert contents(folder) == whole


@pytest.mark.slow
def test_a_run_that_no_longer_improves_ends_and_can_be_extended(config_file, held, tmp_path):
    flags = [*STEPS, "--data.held_out", held, "--optim.learning_rate", 1e-12]
    command = [str(config_file), "--output", str(tmp_path / "a"), *map(str, flags)]
    command += ["--validation.every", "1", "--validation.patience"]
    assert cli.train([*command, "2"]) == 0
    assert lines(tmp_path / "a")[-1]["step"] == 2
    assert json.loads((tmp_path / "a" / "finished.json").read_text()) == {"step": 2}
    page = (tmp_path / "a" / "report.html").read_text("utf-8")
    assert "Finished after 2 steps of 5: val_loss no longer improved." in page
    whole = contents(tmp_path / "a")
    assert cli.train([*command, "2"]) == 0 and contents(tmp_path / "a") == whole
    assert cli.train([*command, "3"]) == 0
    assert json.loads((tmp_path / "a" / "finished.json").read_text()) == {"step": 3}
