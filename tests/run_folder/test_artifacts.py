import pathlib

import pytest
import yaml

from flax_sd.errors import UserError
from flax_sd.run_folder.artifacts import find_source
from flax_sd.weights import hub
from tests.random_loras import random_lora, write_run


@pytest.fixture
def folder(model, tmp_path):
    more = {"variant": "fp16", "vae": "other"}
    write_run(tmp_path / "cat", random_lora(model), model, model=more)
    return tmp_path / "cat"


def test_a_run_knows_its_model(folder, model):
    source = find_source(folder, None, None, None)
    assert source.lora == folder / "lora.safetensors" and source.config is not None
    assert (source.model, source.variant, source.vae) == (str(model), "fp16", "other")
    assert source._replace(vae=None).model_files().folder == model


def test_flags_go_before_it(folder):
    source = find_source(folder, "org/other", "main", None)
    assert source[1:5] == ("org/other", "main", None, None)
    source = find_source(folder, None, "main", "bf16")
    assert source[2:5] == ("main", "bf16", "other")


@pytest.mark.parametrize("name", ["lora.safetensors", "loras/step-000500.safetensors"])
def test_any_file_of_a_run_is_the_runs(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    source = find_source(path, None, None, None)
    assert source.lora == path and source.config is not None


def test_a_file_needs_its_model(tmp_path):
    path = tmp_path / "a.safetensors"
    path.touch()
    source = find_source(path, None, None, None)
    with pytest.raises(
        UserError, match=".*a.safetensors does not tell its base model: pass it as --model"
    ):
        source.model_files()


def test_a_run_of_the_whole_model(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"train": {"mode": "full"}}))
    with pytest.raises(UserError, match="has no folder model: the run is not finished"):
        find_source(tmp_path, None, None, None)
    for name in ("9", "10", "11.damaged"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="config.yaml --train.steps 10 writes that of its newest"):
        find_source(tmp_path, None, None, None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    source = find_source(tmp_path, None, None, None)
    assert source.lora is None and source.model == str(tmp_path / "model")


@pytest.mark.parametrize(
    "mode, files",
    [
        ("lora", ["lora.safetensors", "lora_best.safetensors"]),
        ("full", ["model/model_index.json", "model_best/model_index.json"]),
        ("textual_inversion", ["learned_embeds.safetensors", "learned_embeds_best.safetensors"]),
    ],
)
def test_a_run_has_a_last_and_a_best_state(tmp_path, mode, files):
    tokens = {"names": {"<cat>": "cat"}} if mode == "textual_inversion" else {}
    config = {"train": {"mode": mode}, "tokens": tokens}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for step, name in zip(["last", "best"], files, strict=True):
        with pytest.raises(UserError, match="is not finished"):
            find_source(tmp_path, None, None, None, step=step)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
        source = find_source(tmp_path, None, None, None, step=step)
        found = source.lora or source.tokens.get("<cat>")
        assert (found or pathlib.Path(source.model) / "model_index.json") == tmp_path / name


def test_a_file_has_no_best_state(folder):
    with pytest.raises(UserError, match="--step best needs a run's folder, and .* is a file"):
        find_source(folder / "lora.safetensors", None, None, None, step="best")


def test_the_hub_is_asked_for_a_revision_and_a_variant(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "resolve", lambda *args: asked.append(args) or tmp_path)
    assert find_source(folder, "org/other", "v2", "bf16").model_files().folder == tmp_path
    assert asked == [("org/other", "v2", "bf16")]


def test_what_is_no_run(tmp_path, folder):
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_source(tmp_path / "nowhere", None, None, None)
    with pytest.raises(UserError, match=r"is neither a run's folder \(it has no config.yaml\)"):
        find_source(tmp_path, None, None, None)
    (folder / "lora.safetensors").unlink()
    with pytest.raises(UserError, match="has no lora.safetensors: the run is not finished"):
        find_source(folder, None, None, None)
