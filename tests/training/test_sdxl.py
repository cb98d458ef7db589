"""Whole runs of SDXL: what they train, write and are told of their images."""

import functools

import numpy as np
import pytest

import flax_sd
from flax_sd.weights.model_files import ModelFiles
from tests import tiny
from tests.training_runs import assert_same_lora, tensors

ONCE = ["--data.center_crop", "true", "--data.random_flip", "true", "--data.buckets", "area"]
BOTH = ["--train.text_encoder", "true", "--train.text_encoder_2", "true"]


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """A folder of a random SDXL of a few thousand weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny-xl"
    tiny.build_xl().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("more", [[], ["--train.text_encoder_2", "true"]], ids=["unet", "second"])
def test_losses_with_a_cache_are_those_without(train, xl, more):
    """Trap 14: sizes and crops are each picture's own where latents come from a cache."""
    flags = ["--model.path", xl, "--train.steps", 8, *ONCE, *more]  # 7 images in two views
    once, each = train("a", *flags), train("b", *flags, "--data.encode_once", "false")
    assert once.status == each.status == 0, once.err + each.err
    assert "encoded:" in once.out and "encoded:" not in each.out
    for a, b in zip(once.metrics(), each.metrics(), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert_same_lora(once.lora(), each.lora())


def test_a_killed_run_ends_in_the_same_bytes(train, xl):
    flags = ["--model.path", xl, *BOTH]
    whole = train("a", *flags)
    assert train("b", *flags, "--train.steps", 2).status == 0
    resumed = train("b", *flags)
    assert "resumes: step 2" in resumed.out
    a, b = (run.folder / "lora.safetensors" for run in (whole, resumed))
    assert a.read_bytes() == b.read_bytes()


def test_each_text_encoder_is_trained_by_its_own_option_and_rate(train, xl):
    def trained(name, *flags):
        lora = train(name, "--model.path", xl, "--train.steps", 1, *flags).lora()
        ups = {key for key, value in lora.items() if "lora_up" in key and value.any()}
        return {key.split("_")[1] for key in ups}

    assert trained("a") == {"unet"}
    assert trained("b", "--train.text_encoder_2", "true") == {"unet", "te2"}
    assert trained("c", *BOTH) == {"unet", "te1", "te2"}
    still = ["--optim.text_encoder_learning_rate", 0, "--optim.text_encoder_2_learning_rate", 1e-3]
    assert trained("d", *BOTH, *still) == {"unet", "te2"}
    assert trained("e", *BOTH, *still[:2]) == {"unet"}  # the second's is the first's, if unset


def test_the_second_text_encoder_of_another_model_is_refused(train):
    run = train("a", "--train.text_encoder_2", "true")
    assert run.status == 2 and "has one text encoder" in run.err
    assert "train.text_encoder_2" in run.err


def test_full_training_writes_a_model_that_diffusers_loads(train, xl):
    run = train("a", "--model.path", xl, "--train.mode", "full", "--train.steps", 2, *BOTH)
    assert run.status == 0, run.err
    pipeline = tiny.load(run.folder / "model")
    for name, file in (("unet", "diffusion_pytorch_model"), ("text_encoder_2", "model")):
        ours = tensors(run.folder / "model" / name / f"{file}.safetensors")
        was = tensors(xl / name / f"{file}.safetensors")
        assert ours.keys() == was.keys()
        assert any(not np.array_equal(ours[key], was[key]) for key in ours)
        theirs = getattr(pipeline, name).state_dict()
        assert all(np.array_equal(ours[key], theirs[key].numpy()) for key in theirs)
    first, was = (
        {key.removeprefix("text_model."): tensor for key, tensor in tensors(file).items()}
        for file in (
            folder / "text_encoder/model.safetensors" for folder in (run.folder / "model", xl)
        )
    )
    moved = {key for key in first if not np.array_equal(first[key], was[key])}
    unread = [key for key in moved if ".layers.1." in key or "final_layer_norm" in key]
    assert moved and not unread  # the UNet reads the states before the last layer


def test_v_prediction_with_pure_noise_is_kept_in_all_that_a_run_writes(train, xl, tmp_path):
    """Traps 17 and 18."""
    flags = ["--model.prediction_type", "v_prediction", "--model.zero_snr", "true"]
    run = train("a", "--model.path", xl, "--train.mode", "full", "--train.steps", 2, *flags)
    assert run.status == 0, run.err
    scheduler = tiny.load(run.folder / "model").scheduler.config
    assert scheduler["prediction_type"] == "v_prediction" and scheduler["rescale_betas_zero_snr"]
    assert scheduler["timestep_spacing"] == "trailing"


def test_samples_during_a_run_are_drawn(train, xl):
    flags = ["--sample.every", 2, "--sample.steps", 2, "--sample.prompts", "a cat"]
    run = train("a", "--model.path", xl, *flags)
    assert run.status == 0, run.err
    assert (run.folder / "samples/step-000004.png").is_file()


def test_new_tokens_are_trained_in_both_text_encoders(train, xl, images):
    """Trap 11: one file holds both tables, and each has moved."""
    flags = ["--model.path", xl, "--train.mode", "textual_inversion"]
    flags += ["--tokens.names", "<cat>=cat", "--tokens.vectors", 2]
    flags += ["--data.template", "{} of <cat>", "--optim.learning_rate", 0.01]
    run = train("a", *flags)
    assert run.status == 0, run.err
    path = run.folder / "learned_embeds.safetensors"
    tables = tensors(path)
    assert {name: table.shape for name, table in tables.items()} == {
        "clip_l": (2, 12),
        "clip_g": (2, 10),
    }
    earlier = tensors(run.folder / "embeddings/step-000002.safetensors")
    assert all((tables[name] != earlier[name]).any(axis=1).all() for name in tables)
    sd = flax_sd.StableDiffusion.load(xl)
    assert sd.add_embedding(path) == "<cat>"
    both = zip(sd.text_encoders, ("clip_l", "clip_g"), strict=True)
    for encoder, name in both:
        rows = encoder.text_model.embeddings.new_tokens[...]
        np.testing.assert_array_equal(rows, tables[name])
    assert train("b", *flags, "--train.steps", 2).status == 0
    assert train("b", *flags).status == 0
    again = path.read_bytes()
    assert again == (run.folder.parent / "b" / path.name).read_bytes()


def test_a_checkpoint_in_one_file_is_trained_as_its_folder(train, xl, tmp_path, monkeypatch):
    flax_sd.StableDiffusion.load(xl).save(tmp_path / "whole.safetensors")
    flags = [*BOTH, "--train.steps", 2]
    folder = train("a", "--model.path", xl, *flags)
    find = ModelFiles.find
    # The sizes are no public model's, so that the file alone does not tell its heads.
    monkeypatch.setattr(ModelFiles, "find", functools.partial(find, config=xl))
    file = train("b", "--model.path", tmp_path / "whole.safetensors", *flags)
    assert folder.status == file.status == 0, folder.err + file.err
    ours, theirs = file.lora(), folder.lora()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
