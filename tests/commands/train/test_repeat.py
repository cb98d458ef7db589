"""A run trained anew: the same bytes, or the first that are not."""

import json

import numpy as np
import pytest

from flax_sd import cli
from flax_sd.commands.train import repeat
from flax_sd.config.commands import TrainOptions
from flax_sd.config.file import from_args
from flax_sd.errors import UserError
from flax_sd.weights.safetensors import write


@pytest.fixture
def two(tmp_path):
    """Two folders with the same results."""
    for name in ("a", "b"):
        (tmp_path / name / "loras").mkdir(parents=True)
        for file in ("loras/step-000002.safetensors", "lora.safetensors"):
            tensors = {"up": np.arange(3, dtype=np.float32), "down": np.ones(2, np.float32)}
            write(tmp_path / name / file, tensors)
    return tmp_path / "a", tmp_path / "b"


def differences(two):
    return list(repeat.first_difference(*two))


def test_equal_results_have_no_difference(two):
    assert differences(two) == []
    (two[0] / "loras" / "step-000001.safetensors").write_bytes(b"saved more often")
    assert differences(two) == []


def test_the_first_file_and_tensor_are_named(two):
    changed = {"up": np.arange(3, dtype=np.float32) + 0.5, "down": np.ones(2, np.float32)}
    write(two[1] / "lora.safetensors", changed)
    (line,) = differences(two)
    assert line == f"{two[1]}/lora.safetensors differs from {two[0]}/lora.safetensors: " + (
        "up differs by 0.5 of 2"
    )
    write(two[1] / "loras/step-000002.safetensors", {"up": changed["up"]})
    assert differences(two)[0].endswith("step-000002.safetensors: only one of them has down")


def test_a_result_that_one_lacks_is_named(two):
    (two[1] / "lora.safetensors").unlink()
    assert differences(two) == [f"only {two[0]}/lora.safetensors exists"]


def test_another_environment_is_named(two):
    for folder, version in zip(two, ("0.10.2", "0.11.2"), strict=True):
        about = {"step": 0, "jax": version, "device": "cpu", "data": {"train": {"hash": "ab"}}}
        (folder / "environment.json").write_text(json.dumps([about]))
    assert repeat.other_environment(*two) == ["jax was 0.10.2 and is 0.11.2"]
    first = {"step": 0, "jax": "0.9", "device": "gpu"}
    (two[0] / "environment.json").write_text(json.dumps([first, about | {"step": 4}]))
    assert repeat.other_environment(*two) == [
        f"{two[0]} was trained in 2 environments, one after another"
    ]
    (two[0] / "environment.json").unlink()
    assert repeat.other_environment(*two) == []


def test_what_cannot_be_repeated_is_refused(two):
    config = two[0] / "config.yaml"
    config.write_text("seed: 1")

    def again(*flags):
        return repeat.again(config, from_args(TrainOptions, [str(flag) for flag in flags])[1])

    with pytest.raises(UserError, match="is not finished"):
        again()
    (two[0] / "finished.json").write_text('{"step": 2}')
    with pytest.raises(UserError, match="choose another --output"):
        again("--output", two[0])
    with pytest.raises(UserError, match="own options: leave out --lora.rank, --seed"):
        again("--seed", 3, "--lora.rank", 3)
    assert again().output == two[0].with_name("a-repeated")
    assert again("--output", two[1]).output == two[1]


def test_a_repeated_run_says_whether_its_bytes_are_the_same(train, capsys):
    first = train("a", "--train.steps", 2)
    again = ["--repeat", str(first.folder / "config.yaml")]
    assert cli.train(again) == 0
    out = capsys.readouterr().out
    assert "a-repeated" in out and "are the same, byte for byte" in out
    other = {name: np.asarray(value + 1) for name, value in first.lora().items()}
    write(first.folder / "lora.safetensors", other)
    assert cli.train(again) == 1
    assert "a-repeated/lora.safetensors differs from" in capsys.readouterr().out
