"""A run that was interrupted ends in the bytes of one that was not; another run is refused."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
import yaml

from flax_sd import cli
from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.run_folder import environment, saved_config
from flax_sd.training.checkpoints import Checkpoints
from tests.processes import ROOT
from tests.training_runs import contents, metrics

RESULTS = ("lora.safetensors", "pytorch_lora_weights.safetensors")


def results(folder: pathlib.Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def losses(folder: pathlib.Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics(folder)]


@pytest.fixture(scope="module")
def undisturbed(config_file, tmp_path_factory):
    """Results and losses of six steps in one go."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert cli.train([str(config_file), "--output", str(folder), "--train.steps", "6"]) == 0
    return results(folder), losses(folder)


def test_a_longer_run_equals_one_that_was_long_from_the_start(train, undisturbed):
    short = train("a", "--train.steps", 3)
    longer = train("a", "--train.steps", 6)
    assert "resumes: step 3" in longer.out
    assert results(short.folder) == undisturbed[0] and losses(short.folder) == undisturbed[1]


def test_results_of_a_shorter_run_are_not_taken_for_the_longer_ones(
    train, undisturbed, monkeypatch
):
    """The kill comes after the last checkpoint and before the results are written."""
    train("a", "--train.steps", 3)
    with monkeypatch.context() as patched:

        def die(*args, **options):
            raise KeyboardInterrupt

        patched.setattr("flax_sd.training.outputs.results.Outputs.finish", die)
        assert train("a", "--train.steps", 6).status == 130
    assert train("a", "--train.steps", 6).status == 0
    assert results(train("a", "--train.steps", 6).folder) == undisturbed[0]


def test_stale_lines_are_dropped(train, undisturbed):
    run = train("a", "--train.steps", 3, "--checkpoint.every", 3)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "loss": 9.0}) + '\n{"step": 5, "lo')
    again = train("a", "--train.steps", 6, "--checkpoint.every", 3)
    assert losses(again.folder) == undisturbed[1]


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGHUP, "SIGHUP (the terminal is gone)"), (signal.SIGINT, "Ctrl-C")],
)
def test_a_signal_saves_says_so_and_ends(train, undisturbed, monkeypatch, number, name):
    save, seen = Checkpoints.save, []

    def save_and_signal(self, step, state, best=None):
        save(self, step, state, best)
        if self.folder.name == "checkpoints":  # not the trial before the first step
            seen.append(step)
            if step == 2:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Checkpoints, "save", save_and_signal)
    run = train("a", "--train.steps", 6)
    assert run.status == 130
    assert f"{name}: saved at step 3; run the same command again to resume" in run.out
    assert seen == [2, 3] and not (run.folder / "lora.safetensors").exists()
    monkeypatch.undo()
    again = train("a", "--train.steps", 6)
    assert again.status == 0 and results(again.folder) == undisturbed[0]
    assert losses(again.folder) == undisturbed[1]


def test_a_damaged_checkpoint_is_passed_over(train, undisturbed):
    run = train("a", "--train.steps", 4)
    assert run.status == 0, run.err
    data = run.folder / "checkpoints" / "4" / "state" / "d"
    largest = max(data.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    again = train("a", "--train.steps", 6)
    assert "resumes: step 2" in again.out and "is damaged" in " ".join(again.err.split())
    assert results(again.folder) == undisturbed[0] and losses(again.folder) == undisturbed[1]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (
            ["--optim.learning_rate", "1e-2"],
            ["optim.learning_rate is 0.001 in the run and 0.01 now"],
        ),
        (["--lora.rank", "4", "--seed", "1"], ["lora.rank is 2 in", "seed is 0 in the run and 1"]),
        (["--data.random_flip"], ["data.random_flip is False"]),
    ],
)
def test_other_options_are_refused_by_name(train, flags, named):
    before = contents(train("a", "--train.steps", 1).folder)
    run = train("a", "--train.steps", 2, *flags)
    assert run.status == 2
    assert all(text in run.err for text in named), run.err
    assert contents(run.folder) == before


def test_how_often_to_save_may_change(train, undisturbed):
    first = train("a", "--train.steps", 3, "--checkpoint.every", 1, "--checkpoint.keep", 1)
    states = [path.name for path in (first.folder / "checkpoints").iterdir()]
    assert [name for name in states if name.isdigit()] == ["3"]
    flags = ["--checkpoint.every", 3, "--checkpoint.every_epochs", 1, "--sample.seed", 4]
    run = train("a", "--train.steps", 6, *flags)
    assert run.status == 0 and results(run.folder) == undisturbed[0]
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["checkpoint"]["every"] == 3


def test_folders_of_something_else_are_refused(train, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    run = train("mine")
    assert run.status == 2 and "mine holds thesis.tex and no run (no config.yaml)" in run.err
    assert contents(tmp_path / "mine") == {"thesis.tex": b"x"}
    (tmp_path / "file").write_text("x")
    assert "file is a file: name a new folder" in train("file").err
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.yaml").write_text("kind: cluster")
    run = train("odd")
    assert run.status == 2 and "kind: there is no such option" in run.err


def test_a_kill_while_the_config_is_written_leaves_a_folder_that_can_be_used(train, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".config.yaml.part").write_text("mod")
    assert train("a", "--train.steps", 1).status == 0


def test_a_checkpoint_of_another_config_is_refused(train):
    run = train("a", "--train.steps", 2)
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("rank: 2", "rank: 3"))
    again = train("a", "--train.steps", 4, "--lora.rank", 3)
    assert again.status == 2
    assert "checkpoints/2 is of another config" in again.err and "lora_a" not in again.err


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(config_file, tmp_path, compile_cache):
    """SIGKILL, as soon as the run is under way and then at moments drawn from one seed."""
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": compile_cache}
    environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def command(folder):
        flags = ["--output", folder, "--train.steps", "60", "--checkpoint.every", "3"]
        flags += ["--sample.every", "20", "--sample.steps", "1", "--sample.prompts", "a"]
        return [sys.executable, "train.py", str(config_file), *map(str, flags)]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    subprocess.run(command(whole), cwd=ROOT, env=environ, check=True, capture_output=True)
    took = time.monotonic() - began

    draw, kills = random.Random(0), 0
    while kills < 6:
        process = subprocess.Popen(
            command(killed), cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        checkpoints = killed / "checkpoints"
        known, deadline = _listing(checkpoints), time.monotonic() + 3 * took
        while _listing(checkpoints) == known and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.choice([0, 0.002, 0.01, 0.05, 0.2]))
        process.kill()
        process.communicate()
        kills += 1
    subprocess.run(command(killed), cwd=ROOT, env=environ, check=True, capture_output=True)
    assert results(killed) == results(whole) and losses(killed) == losses(whole)
    a, b = contents(whole / "loras"), contents(killed / "loras")
    assert a == b
    assert contents(whole / "samples") == contents(killed / "samples")


def _listing(folder: pathlib.Path) -> list[str]:
    """The checkpoints, those that are being written among them."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_the_state_that_is_saved_holds_the_step_and_the_key(train):
    run = train("a", "--train.steps", 1)
    listing = json.loads((run.folder / "checkpoints/1/leaves/metadata").read_text())["leaves"]
    assert {"step", "key", "loss_scale.scale"} <= listing.keys()
    assert jax.process_count() == 1


def test_patterns_that_only_one_of_two_configs_has_are_named():
    old, new = (Config.model_validate({"lora": {"ranks": r}}) for r in ({}, {"unet.mid": 3}))
    name = "lora.ranks.unet.mid"
    assert saved_config.differences(old, new) == {name: f"{name} is None in the run and 3 now"}
    assert saved_config.differences(new, old) == {name: f"{name} is 3 in the run and None now"}


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run's folder with a checkpoint, and the way to look at it with other options."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/checkpoints/2", "model", "copy", "set"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("set")
    own = {"model": {"path": "model"}, "data": {"path": "set", "folders": {"set": 2}}}

    def config(**other):
        merged = {**own, "output": "run", **other}
        for section in own.keys() & other.keys():
            merged[section] = own[section] | other[section]
        return Config.model_validate(merged)

    saved_config.write(config())
    return config


@pytest.mark.parametrize(
    ("options", "moved"),
    [
        ({"data": {"workers": 7, "on_bad": "stop"}, "log": {"every": 3}}, []),
        ({"train": {"steps": 7}, "sample": {"seed": 3}, "profile": "1:2", "output": "./run"}, []),
        ({"model": {"path": "./model/"}, "data": {"path": "../{}/link"}}, []),
        ({"data": {"folders": {"./link": 2}}}, []),
        ({"lora": {"alpha": 4}, "optim": {"beta1": 0.9, "beta2": 0.999}}, []),
        ({"optim": {"text_encoder_learning_rate": 1e-4, "text_encoder_weight_decay": 0.01}}, []),
        ({"model": {"path": "copy"}}, ["model.path"]),
        (
            {"model": {"revision": "v1"}, "compute_dtype": "float32"},
            ["compute_dtype", "model.revision"],
        ),
        ({"data": {"folders": {"copy": 2}}}, ["data.folders.{0}/copy", "data.folders.{0}/set"]),
    ],
)
def test_another_spelling_is_no_other_run(begun, tmp_path, options, moved):
    """F30."""
    options = json.loads(json.dumps(options).replace("../{}", f"../{tmp_path.name}"))
    found = saved_config.check(begun(**options))
    assert found == [name.format(tmp_path) for name in moved]


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"data": {"random_flip": True}},
        {"data": {"folders": {"copy": 3}}},
        {"data": {"folders": {"set": 3}}},
        {"data": {"folders": {"set": 2, "copy": 1}}},
        {"train": {"batch_size": 2}},
        {"lora": {"alpha": 8}},
        {"lora": {"alpha": 4, "ranks": {"mid": 8}}},
    ],
)
def test_what_would_make_another_run_of_it_is_refused(begun, options):
    with pytest.raises(UserError, match="is of a run with other options"):
        saved_config.check(begun(**options))


def test_what_another_place_leads_to_is_compared(begun, tmp_path):
    """F30: by the hash that the run has written down."""
    config = begun(model={"path": "copy"})
    moved = saved_config.check(config)
    with pytest.raises(UserError, match="model.path is '.*/model' in the run and '.*/copy' now"):
        saved_config.check_content(config, moved, lambda: {"model_hash": "a"})
    environment.record(tmp_path / "run", 0, {"model_hash": "a"})
    saved_config.check_content(config, moved, lambda: {"model_hash": "a"})
    with pytest.raises(UserError, match="model.path is"):
        saved_config.check_content(config, moved, lambda: {"model_hash": "b"})
    (tmp_path / "run/checkpoints/2").rmdir()
    saved_config.check_content(config, moved, lambda: {"model_hash": "b"})


def test_a_drawn_seed_is_the_runs_from_then_on(tmp_path):
    """U5."""
    asked = Config.model_validate({"output": str(tmp_path), "seed": -1, "sample": {"seed": -1}})
    drawn = saved_config.settled(asked)
    assert 0 <= drawn.seed < 2**32 and 0 <= drawn.sample.seed
    assert saved_config.settled(asked).seed != drawn.seed
    saved_config.write(drawn)
    assert saved_config.settled(asked) == drawn and saved_config.differences(drawn, drawn) == {}
    assert saved_config.settled(Config(output=tmp_path)) == Config(output=tmp_path)


def test_a_moved_run_goes_on(train, tmp_path, images, model, undisturbed, monkeypatch):
    """F30, F1: the folders of run, model and images have other names, odd ones too."""
    train("a", "--train.steps", 3)
    (tmp_path / "a").rename(tmp_path / "50% o'ff #2? *[é] .")
    for name, folder in {"sét": images, "mo del": model}.items():
        shutil.copytree(folder, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    flags = ["--data.path", "sét", "--model.path", "mo del", "--data.workers", 3, "--log.every", 1]
    run = train("50% o'ff #2? *[é] .", *flags, "--train.steps", 6)
    assert run.status == 0 and "resumes: step 3" in run.out, run.err
    assert results(run.folder) == undisturbed[0] and losses(run.folder) == undisturbed[1]
