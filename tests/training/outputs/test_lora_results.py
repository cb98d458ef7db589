"""The LoRA files of a run (U8): their names, the named one's header, and the numbers' dtype."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_sd.config import Config
from flax_sd.run_folder.result_files import MAX_NAME, lora_files, lora_for_users, lora_of_its_name
from flax_sd.weights.safetensors import TensorFile
from tests.training_runs import tensors


def run_at(output):
    return Config.model_validate({"output": str(output)})


@pytest.mark.parametrize(
    "output, name",
    [
        ("runs/cat", "cat.safetensors"),
        ("runs/cat.v1", "cat.v1.safetensors"),
        ("runs/x/..", "runs.safetensors"),
        ("runs/" + "猫" * 90, "猫" * (MAX_NAME // 3) + ".safetensors"),
        ("runs/lora", None),
        ("runs/LoRA", None),
        ("runs/pytorch_lora_weights", None),
        ("runs/learned_embeds", None),
        ("/", None),
    ],
)
def test_a_file_bears_the_runs_name_unless_another_has_it(output, name):
    config = run_at(output)
    assert lora_of_its_name(config) == name
    users = config.output / (name or "lora.safetensors")
    assert lora_for_users(config) == users
    assert [path.name for path in lora_files(config)[:2]] == [
        "lora.safetensors",
        "pytorch_lora_weights.safetensors",
    ]
    best = lora_for_users(config, best=True).name
    assert best == ("lora_best" if name is None else name[: -len(".safetensors")] + "_best") + (
        ".safetensors"
    )


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=80))
def test_any_name_of_a_folder_gives_a_name_that_a_disk_takes(folder):
    name = lora_of_its_name(run_at(f"runs/{folder}"))
    if name is not None:
        assert len(f".{name}.part".encode()) <= 255 and "/" not in name


def test_the_named_file_is_the_result_with_a_title_and_the_runs_settings(train):
    run = train("a", "--train.steps", 1)
    plain, ours = (
        TensorFile(run.folder / "lora.safetensors"),
        TensorFile(run.folder / "a.safetensors"),
    )
    assert all(np.array_equal(plain[key], ours[key]) for key in plain)
    more = ours.metadata.items() - plain.metadata.items()
    assert {"ss_output_name", "modelspec.title", "ss_seed", "ss_learning_rate"} <= dict(more).keys()
    assert (
        ours.metadata["modelspec.title"] == "a" and plain.metadata.items() <= ours.metadata.items()
    )
    tags = json.loads(plain.metadata["ss_tag_frequency"])
    assert tags == {"pictures": {f"image number {i}": 1 for i in range(7)}}
    assert f"--lora {run.folder}/a.safetensors:0.8" in run.out

    (run.folder / "a.safetensors").unlink()
    again = train("a", "--train.steps", 1)
    assert (
        again.status == 0 and dict(TensorFile(run.folder / "a.safetensors")).keys() == plain.keys()
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_results_are_rounded_to_the_dtype_that_is_asked_for(train, dtype):
    whole, half = (
        train("a", "--train.steps", 2),
        train("b", "--train.steps", 2, "--save_dtype", dtype),
    )
    for name in ("lora", "pytorch_lora_weights", "loras/step-000002", "loras/step-000002_peft"):
        ours, theirs = (tensors(run.folder / f"{name}.safetensors") for run in (half, whole))
        for key, value in theirs.items():
            wanted = np.float32 if key.endswith(".alpha") else np.dtype(ours[key].dtype)
            assert ours[key].dtype == wanted and np.array_equal(ours[key], value.astype(wanted))
        assert {value.dtype.name for key, value in ours.items() if "alpha" not in key} == {dtype}
    checkpoint = "checkpoints/2/leaves/metadata"
    assert (half.folder / checkpoint).read_text() == (whole.folder / checkpoint).read_text()
