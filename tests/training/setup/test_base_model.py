"""The parts that a run starts from: of the files that are named, or from scratch."""

import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd.config.file import parse
from flax_sd.training.setup.base_model import load_model
from flax_sd.weights import hub
from tests import tiny

TRAINED = {  # by which options
    "unet": ["--train.mode", "full"],
    "text_encoder": ["--train.mode", "full", "--train.text_encoder", "true"],
    "vae": ["--train.mode", "vae"],
}


@pytest.fixture
def networks(config_file):
    """The weights of the tiny run's networks, with flags."""

    def load(*flags):
        parts = load_model(parse(config_file, list(flags)), "float32")
        return {name: jax.tree.leaves(nnx.state(net)) for name, net in parts.networks.items()}

    return load


def unlike(ours, theirs):
    """The networks no leaf of which is the same; in the others all are."""
    found = set()
    for name, leaves in ours.items():
        same = [np.array_equal(a, b) for a, b in zip(leaves, theirs[name], strict=True)]
        assert all(same) or not any(same)
        found |= {name} if not any(same) else set()
    return found


@pytest.mark.parametrize("name", TRAINED)
def test_a_part_from_scratch_is_not_that_of_the_files(networks, name):
    flags = [*TRAINED[name], "--model.from_scratch", name]
    assert unlike(networks(*flags), networks()) == {name}


def test_what_starts_from_scratch_is_drawn_by_the_seed(networks):
    flags = [*TRAINED["vae"], "--model.from_scratch", "vae", "--seed"]
    first, again, other = (networks(*flags, seed)["vae"] for seed in ("0", "0", "1"))
    assert all(map(np.array_equal, first, again)) and not all(map(np.array_equal, first, other))


def test_the_hub_is_asked_for_a_revision_and_a_variant(networks, tmp_path, monkeypatch):
    tiny.save("sd1", tmp_path, variant="fp16")
    asked = []
    monkeypatch.setattr(hub, "resolve", lambda *args: asked.append(args) or tmp_path)
    flags = ["--model.path", "org/sd", "--model.revision", "v2", "--model.variant", "fp16"]
    networks(*flags, "--model.vae", "org/vae")
    assert asked == [("org/sd", "v2", "fp16"), ("org/vae", None, "fp16")]
