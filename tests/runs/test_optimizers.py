"""Every optimizer in whole runs: it resumes to the same bytes, and its options reach the update."""

import typing

import numpy as np
import pytest

from flax_sd.config import OptimConfig
from tests.runs.conftest import tensors

METHODS = typing.get_args(OptimConfig.model_fields["method"].annotation)
SELF_RATED = ("prodigy", "dadapt")


def flags(method):
    """A run by a method, with a warm-up: a rate of 0 at the first step is the hard case."""
    rate = 1.0 if method in SELF_RATED else 1e-3
    course = ["--optim.schedule", "constant_with_warmup", "--optim.warmup_steps", 2]
    return ["--optim.method", method, "--optim.learning_rate", rate, *course]


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_in_the_same_bytes(train, method):
    whole = train("whole", *flags(method))
    train("parts", *flags(method), "--train.steps", 2)
    parts = train("parts", *flags(method))
    assert whole.status == parts.status == 0, whole.err + parts.err
    name = "lora.safetensors"
    assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    if method != "adamw":
        adamw = train("adamw", *flags("adamw"))
        assert any((adamw.lora()[key] != value).any() for key, value in whole.lora().items())


def test_8_bits_resume_too_where_leaves_are_large_enough(train):
    full = [*flags("adamw8bit"), "--train.mode", "full"]
    whole = train("whole", *full)
    train("parts", *full, "--train.steps", 2)
    parts = train("parts", *full)
    assert whole.status == parts.status == 0, whole.err + parts.err
    name = "model/unet/diffusion_pytorch_model.safetensors"
    ours, theirs = tensors(parts.folder / name), tensors(whole.folder / name)
    assert all((ours[key] == value).all() for key, value in theirs.items())
    adamw = train("adamw", *flags("adamw"), "--train.mode", "full")
    assert any((tensors(adamw.folder / name)[key] != v).any() for key, v in theirs.items())


def test_rates_by_pattern_leave_the_others_as_they_were(train):
    run = train("a", "--optim.rates", r"unet\.up_blocks=0", "--optim.lora_plus", 4)
    assert run.status == 0, run.err
    for key, value in run.lora().items():
        if "lora_up" in key:  # starts at zero
            assert value.any() == ("up_blocks" not in key), key


def test_lora_plus_moves_the_up_matrices_further(train):
    runs = [train(str(ratio), "--optim.lora_plus", ratio, "--train.steps", 1) for ratio in (1, 4)]
    one, four = (run.lora() for run in runs)
    for key, value in one.items():
        factor = 4 if "lora_up" in key else 1
        np.testing.assert_allclose(four[key], factor * value, rtol=1e-5)


def test_a_pattern_that_matches_nothing_is_one_sentence(train):
    run = train("a", "--optim.rates", "uper_blocks=2")
    assert run.status == 2 and "nothing that is trained matches 'uper_blocks'" in run.err
