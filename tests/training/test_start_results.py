"""What is known of a model before its first step: found by a run that begins alike, by no other."""

import os
import time

import jax
import numpy as np
import pytest

from flax_sd.config import file as config_files
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.training import environment
from flax_sd.training.inputs.datasets import open_sets
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import make_task
from flax_sd.training.start_results import KNOWN, StartResults, start_key
from tests.training_runs import contents, make_images

LOSSES = {"val_loss": np.linspace(0, 1, 6).reshape(3, 2), "base_loss": np.zeros((1, 1))}
IMAGES = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of one test, but for the compiled programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flax_sd" / "starts"


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    held = make_images(tmp_path_factory.mktemp("held"), 3, seed=5)
    return ["--data.held_out", held, "--sample.prompts", '["a cat"]', "--sample.steps", "1"]


def lines(out, *starts):
    """The lines of the stages, without their seconds."""
    stages = (line[11:] for line in out.splitlines())
    return [line for line in stages if line.startswith(starts)]


def test_the_next_run_takes_what_is_known_and_finds_the_same(train, flags, cache):
    first, second = train("a", *flags), train("b", *flags)
    assert KNOWN not in first.out and "evaluating 3 images" in first.out
    assert "evaluating 3 images" not in second.out.split("compiling")[0]
    assert "generating 1 sample" not in second.out.split("compiling")[0]
    stages = lines(second.out, "evaluated: ", "sampled: ")
    assert [line.endswith(KNOWN) for line in stages] == [True, True, False, False]
    ours, theirs = contents(first.folder), contents(second.folder)
    same = [name for name in ours if name.endswith((".png", ".npz")) or "validation" in name]
    assert len(same) >= 5
    assert all(ours[name] == theirs[name] for name in same)
    assert first.metrics()[0]["val_loss"] == second.metrics()[0]["val_loss"]


def test_what_comes_later_may_differ_and_nothing_else(train, flags, cache):
    train("a", *flags)
    alike = train("b", *flags, "--optim.learning_rate", "2e-3", "--checkpoint.every", "3")
    assert alike.out.count(KNOWN) == 2
    for name, option in {"c": ("--lora.rank", "3"), "d": ("--sample.guidance_scale", "3")}.items():
        assert KNOWN not in train(name, *flags, *option).out


def test_a_damaged_file_is_written_again(train, flags, cache):
    train("a", *flags)
    whole = {path: path.read_bytes() for path in cache.rglob("*.safetensors")}
    for path, content in whole.items():
        path.write_bytes(content[:-1])
    assert KNOWN not in train("b", *flags).out
    assert {path: path.read_bytes() for path in whole} == whole


def test_losses_and_images_are_kept_apart(tmp_path):
    nothing = StartResults("key", tmp_path)
    assert nothing.losses is None and nothing.images is None
    nothing.keep_losses(LOSSES)
    assert StartResults("key", tmp_path).images is None
    nothing.keep_images(IMAGES)
    known = StartResults("key", tmp_path)
    assert known.losses is not None and known.losses.keys() == LOSSES.keys()
    assert all(np.array_equal(known.losses[name], LOSSES[name]) for name in LOSSES)
    assert np.array_equal(known.images, IMAGES)
    assert StartResults("other", tmp_path).losses is None


def test_without_a_key_or_a_folder_nothing_is_kept(tmp_path):
    StartResults(None, tmp_path).keep_losses(LOSSES)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    StartResults("key", tmp_path / "file" / "starts").keep_losses(LOSSES)
    assert StartResults("key", tmp_path / "file" / "starts").losses is None


def test_the_oldest_go_first(tmp_path, monkeypatch):
    sizes = []
    for age, key in zip((30, 20, 10), "abc", strict=True):
        StartResults(key, tmp_path).keep_images(IMAGES)
        (path,) = set(tmp_path.rglob("*.safetensors")) - {path for path, _ in sizes}
        os.utime(path, (time.time() - age,) * 2)
        sizes.append((path, path.stat().st_size))
    monkeypatch.setattr("flax_sd.training.start_results.MAX_BYTES", 2 * sizes[0][1])
    StartResults("d", tmp_path).keep_images(IMAGES)
    left = [StartResults(key, tmp_path).images is not None for key in "abcd"]
    assert left == [False, False, True, True]


@pytest.fixture(scope="module")
def key_of(config_file):
    """Returns the key of a run with further flags, whose model may be changed first."""

    def key(*flags, change=lambda model: None, prompts=()):
        config = config_files.parse(config_file, list(map(str, flags)))
        sets, model = open_sets(config), load_model(config, "float32")
        make_task(config, model)
        change(model)
        return start_key(config, environment.facts(config, sets, model), model, prompts)

    return key


def test_the_key_depends_on_each_weight_the_words_the_scheduler_and_the_images(
    key_of, tmp_path, monkeypatch
):
    def one_weight(model):
        kernel = model.networks["unet"].conv_in.kernel
        kernel[...] = kernel[...].at[0, 0, 0, 0].add(1e-6)

    def pad(model):
        model.tokenizers[0].pad += 1

    def scheduler(model):
        model.scheduler_config["steps_offset"] = 7

    own = key_of()
    assert own == key_of() == key_of("--output", tmp_path, "--log.every", 3)
    others = {key_of(change=change) for change in (one_weight, pad, scheduler)}
    others |= {key_of(prompts=["a caption"])}
    others |= {key_of("--seed", 3), key_of("--data.path", make_images(tmp_path, 2))}
    monkeypatch.setattr(environment, "source_hash", lambda: "other code")
    others |= {key_of()}
    assert len(others - {own}) == 7
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert key_of() is None


def test_the_digest_of_a_tokenizer_is_that_of_its_ids(model):
    folder = model / "tokenizer"
    own, again = Tokenizer.load(folder), Tokenizer.load(folder)
    assert own.digest == again.digest
    others = {own.with_length(150).digest, own.with_tokens(["<cat>"], 49408).digest}
    assert len({own.digest, *others}) == 3
