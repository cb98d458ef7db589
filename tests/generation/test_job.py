import json
import shutil

import jax
import numpy as np
import pytest

from flax_sd.config.flags import read_flags
from flax_sd.errors import UserError
from flax_sd.generation.job import prepare, usual_batch
from flax_sd.generation.options import SampleOptions
from flax_sd.generation.prompts import Row
from flax_sd.samplers import full_name
from flax_sd.weights import hub, safetensors
from flax_sd.weights.diffusers_folder import read_json
from flax_sd.weights.model_files import ModelFiles
from tests import tiny


def parse(words):
    return read_flags(SampleOptions, words)


def job_of(model, tmp_path, *more):
    return prepare(parse(["--model", str(model), "--out", str(tmp_path / "out"), *more]))


def test_unset_settings_come_from_the_model(model, tmp_path):
    job = job_of(model, tmp_path, "--prompt", "a", "--height", "64")
    (record,) = job.records.values()
    assert (record["height"], record["width"]) == (64, 12)  # 6 latents of 2 pixels
    assert record["sampler"] == "pndm" and record["dtype"] == "float32" and record["vae"] is None
    assert not (tmp_path / "out").exists()


def test_the_command_of_options_gives_the_options_back():
    options = {"model": "a/b", "prompt": "a 'cat'", "lora": ["x:0.8", "y"], "embedding": ["e"]}
    options |= {"clip_skip": 1, "max_token_length": 150, "vae": "b/c", "revision": "v1"}
    options |= {"prediction_type": "v_prediction", "zero_snr": True, "seed": 1, "out": "o ut"}
    made = SampleOptions.model_validate(options)
    words = made.command()
    assert parse(words[words.index("--model") :]) == made


def test_dtype_and_batch_size_are_those_of_the_flags(model, tmp_path):
    flags = ["--prompt", "a", "--images-per-prompt", "5", "--batch-size", "2"]
    job = job_of(model, tmp_path, *flags, "--dtype", "bfloat16")
    assert job.dtype == "bfloat16"
    assert [(len(batch.images), batch.size) for batch in job.batches] == [(2, 2), (2, 2), (1, 2)]


def test_the_hub_is_asked_for_a_revision_and_a_variant(tmp_path, monkeypatch):
    tiny.save("sd1", tmp_path, variant="fp16")
    asked = []
    monkeypatch.setattr(hub, "resolve", lambda *args: asked.append(args) or tmp_path)
    flags = ["--revision", "v2", "--variant", "fp16", "--vae", "org/vae"]
    job_of("org/sd", tmp_path, "--prompt", "a", *flags)
    assert asked == [("org/sd", "v2", "fp16"), ("org/vae", None, "fp16")]


def test_a_retrained_model_is_another_one(model, tmp_path):
    other = tmp_path / "tiny-sd"
    shutil.copytree(model, other)
    hashes = [
        next(iter(job_of(folder, tmp_path, "--prompt", "a").records.values()))["model_hash"]
        for folder in (model, other)
    ]
    assert hashes[0] == hashes[1]
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    job = job_of(other, tmp_path, "--prompt", "a")
    assert next(iter(job.records.values()))["model_hash"] != hashes[0]


def test_another_vae_is_part_of_the_settings(model, tmp_path):
    vaes = [str(model), str(model / "vae")]
    jobs = [job_of(model, tmp_path, "--prompt", "a", "--vae", vae) for vae in vaes]
    first, second = (next(iter(job.records.values()))["vae"] for job in jobs)
    assert first.split() == ["tiny-sd", second.split()[1]] and second.startswith("vae ")


def test_an_own_sampler_of_an_unknown_class(tmp_path):
    tiny.save("sd2", tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    assert full_name(None, read_json(path)) == "ddim"
    index = tmp_path / "model_index.json"  # which diffusers goes by
    odd = {"scheduler": ["diffusers", "OddScheduler"]}
    index.write_text(json.dumps(read_json(index) | odd))
    assert full_name(None, ModelFiles(tmp_path).scheduler_config) == "OddScheduler"
    with pytest.raises(UserError, match="OddScheduler"):
        job_of(tmp_path, tmp_path, "--prompt", "a")
    record = job_of(tmp_path, tmp_path, "--prompt", "a", "--sampler", "euler").records
    assert next(iter(record.values()))["sampler"] == "euler"


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        job_of(tmp_path / "empty", tmp_path, "--prompt", "a")


def test_batches_that_fit(monkeypatch):
    def row(side):
        return Row(prompt="", width=side, height=side)

    assert usual_batch([row(512)], 1) == 1
    assert usual_batch([row(768)], 2) == 2
    assert usual_batch([row(128), row(256)], 1) == 4
    assert usual_batch([row(64)], 2) == 16
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert usual_batch([row(512)], 2) == 8


def test_embeddings_are_part_of_the_settings_and_looked_at_before_weights(model, tmp_path):
    path = tmp_path / "my-cat.safetensors"
    safetensors.write(path, {"emb_params": np.ones((2, 12), np.float32)})
    flags = ["--prompt", "a", "--embedding", str(path), "--embedding", f"{path}:<sks>"]
    (record,) = job_of(model, tmp_path, *flags).records.values()
    assert [one["token"] for one in record["embeddings"]] == ["my-cat", "<sks>"]
    assert {one["name"] for one in record["embeddings"]} == {"my-cat"}
    (plain,) = job_of(model, tmp_path, "--prompt", "a").records.values()
    assert "embeddings" not in plain  # so that folders of older images are gone on with
    safetensors.write(path, {"emb_params": np.ones((2, 768), np.float32)})
    with pytest.raises(UserError, match="768 wide .* this model's text encoder is 12 wide"):
        job_of(model, tmp_path, *flags)
