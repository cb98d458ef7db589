"""Every optimizer in whole runs: it resumes to the same bytes, and its options reach the update."""

import shutil

import numpy as np
import pytest

from flax_sd.training.optim import eight_bit
from tests.training_runs import tensors

SELF_RATED = ("prodigy", "dadapt")


def flags(method):
    """A run by a method, with a warm-up: a rate of 0 at the first step is the hard case."""
    rate = 1.0 if method in SELF_RATED else 1e-3
    course = ["--optim.schedule", "constant_with_warmup", "--optim.warmup_steps", 2]
    return ["--optim.method", method, "--optim.learning_rate", rate, *course]


def resumed(train, name, *given):
    """A run of four steps, and the result of its last two done again; both must be one."""
    whole = train("run", *given)
    assert whole.status == 0, whole.err
    before = tensors(whole.folder / name)
    shutil.rmtree(whole.folder / "checkpoints" / "4")
    (whole.folder / name).unlink()
    again = train("run", *given)
    assert again.status == 0 and "resumes: step 2" in again.out, again.err
    after = tensors(whole.folder / name)
    assert before.keys() == after.keys()
    assert all((after[key] == value).all() for key, value in before.items())
    return after


@pytest.mark.parametrize("method", ["schedule_free", "prodigy", "muon", "adafactor"])
def test_a_resumed_run_ends_in_the_same_weights(train, method):
    ours = resumed(train, "lora.safetensors", *flags(method))
    adamw = train("adamw", *flags("adamw"))
    assert any((adamw.lora()[key] != value).any() for key, value in ours.items())


def test_8_bits_resume_too_where_leaves_are_large_enough(train, monkeypatch):
    monkeypatch.setattr(eight_bit, "MIN_SIZE", 512)
    name = "model/unet/diffusion_pytorch_model.safetensors"
    ours = resumed(train, name, *flags("adamw8bit"), "--train.mode", "full")
    adamw = tensors(train("adamw", *flags("adamw"), "--train.mode", "full").folder / name)
    assert any((adamw[key] != value).any() for key, value in ours.items())


def test_rates_by_pattern_leave_the_others_as_they_were(train):
    run = train("a", "--optim.rates", r"unet\.mid_block.*attn1=0", "--optim.lora_plus", 4)
    assert run.status == 0, run.err
    for key, value in run.lora().items():
        if "lora_up" in key:  # starts at zero
            assert value.any() == ("attn1" not in key), key


def test_lora_plus_moves_the_up_matrices_further(train):
    runs = [train(str(ratio), "--optim.lora_plus", ratio, "--train.steps", 1) for ratio in (1, 4)]
    one, four = (run.lora() for run in runs)
    for key, value in one.items():
        factor = 4 if "lora_up" in key else 1
        np.testing.assert_allclose(four[key], factor * value, rtol=1e-5)


def test_a_pattern_that_matches_nothing_is_one_sentence(train):
    run = train("a", "--optim.rates", "uper_blocks=2")
    assert run.status == 2 and "no trained parameter matches 'uper_blocks'" in run.err
