import json

import jax
import pytest

from flax_sd import config as options
from flax_sd.data import open_images
from flax_sd.models.layers import Network
from flax_sd.run_folder import environment as environment_record
from flax_sd.run_folder import layout
from flax_sd.training import environment
from flax_sd.training.inputs.datasets import Sets
from flax_sd.weights.hub import BUNDLED
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles
from tests.training_runs import make_images


@pytest.fixture
def found(images):
    """The facts of a run that begins now."""
    base = BUNDLED / "base"
    networks = dict.fromkeys(["unet", "vae", "text_encoder"], Network())
    model = Model(ModelFiles(base), networks, [], {})
    config = options.Config.model_validate({"data": {"path": str(images), "resolution": 32}})
    return environment.facts(config, Sets(open_images(config.data), {}), model)


def test_what_a_run_is_made_with(found):
    assert found["jax"] == jax.__version__ and found["device"] == "cpu" and found["devices"] == 1
    assert found["compute_dtype"] == "float32" and found["matmul_precision"] == "highest"
    assert len(found["model_hash"]) == len(found["flax_sd_source"]) == 10
    assert found["data"]["train"]["pictures"] == found["data"]["train"]["captions"] == 7
    assert json.loads(json.dumps(found)) == found


def test_the_hash_of_a_set_is_of_names_images_and_captions(tmp_path):
    def fingerprint(change=lambda folder: None, **data):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        change(make_images(folder, 3))
        cfg = options.DataConfig.model_validate({"path": str(folder), "resolution": 32, **data})
        return open_images(cfg).fingerprint()

    def rename(folder):
        (folder / "2.png").rename(folder / "9.png")
        edit(folder, '"2.png"', '"9.png"')

    def edit(folder, old, new):
        path = folder / "metadata.jsonl"
        path.write_text(path.read_text().replace(old, new))

    plain = fingerprint()
    assert fingerprint(center_crop=True) == plain  # an option is no image
    others = {
        fingerprint(rename),
        fingerprint(lambda folder: edit(folder, "image number 2", "another caption")),
        fingerprint(lambda folder: make_images(folder, 3, seed=1)),
    }
    assert len(others | {plain}) == 4


def test_a_start_with_something_else_is_added(tmp_path):
    def recorded(step, **facts):
        environment_record.record(tmp_path, step, facts)
        return [(entry["step"], entry["jax"]) for entry in environment_record.read(tmp_path)]

    assert recorded(0, jax="1") == [(0, "1")]
    assert recorded(10, jax="1") == [(0, "1")]
    assert recorded(20, jax="2") == [(0, "1"), (20, "2")]
    assert recorded(20, jax="3") == [(0, "1"), (20, "3")]  # killed before it had saved
    assert recorded(10, jax="1") == [(0, "1")]
    assert recorded(0, jax="4") == [(0, "4")]
    assert [path.name for path in tmp_path.iterdir()] == [layout.ENVIRONMENT]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"jax": "1"}]', "[{"])
def test_a_damaged_file_counts_for_nothing(tmp_path, text):
    (tmp_path / layout.ENVIRONMENT).write_text(text)
    assert environment_record.read(tmp_path) == []
    environment_record.record(tmp_path, 5, {"jax": "1"})
    assert environment_record.read(tmp_path) == [{"step": 5, "jax": "1"}]
