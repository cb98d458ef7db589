"""Training that begins with a LoRA of a file, and options that contradict it."""

import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd.config import Config
from flax_sd.config import file as config_file
from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import kohya, peft
from flax_sd.lora.formats.folded_alphas import unfolded
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import extract
from flax_sd.models.clip import CLIPTextConfig, CLIPTextModel
from flax_sd.models.text_encoders import TextRule
from flax_sd.training.setup.base_model import abstract_model
from flax_sd.training.setup.lora import add_adapters
from flax_sd.training.setup.task import make_task
from flax_sd.weights.networks import OneKey
from tests.lora.conftest import SD15, abstract_unet
from tests.random_loras import random_lora
from tests.training_runs import tensors

TEXT = ["--train.text_encoder", "true"]


@pytest.fixture
def config(config_file, tmp_path):
    return lambda start, *flags: _parse(config_file, "--lora.start", str(tmp_path / start), *flags)


def _parse(path, *flags):
    # The tiny run's own rank is 2; 4 is the default, which leaves it to the file.
    return config_file.parse(path, ["--lora.rank", "4", *map(str, flags)])


@pytest.fixture(scope="module")
def lora(model):
    """In both networks; one layer has another rank and alpha."""
    made = random_lora(model, rank=3, alpha=2.0)
    path = next(iter(made["unet"]))
    odd = random_lora(model, rank=5)["unet"][path]._replace(alpha=7.0)
    return made | {"unet": made["unet"] | {path: odd}}


def assert_trains(config, lora):
    parts = abstract_model(config, "float32")
    task = make_task(config, parts)
    assert task.params.keys() == lora.keys()
    for name, own in lora.items():
        found = extract(parts.networks[name])
        assert found.keys() == own.keys()
        for path, adapter in own.items():
            np.testing.assert_array_equal(found[path].down, adapter.down)
            np.testing.assert_array_equal(found[path].up, adapter.up)
            assert found[path].alpha == adapter.alpha
        count = sum(adapter.down.size + adapter.up.size for adapter in own.values())
        assert sum(leaf.size for leaf in jax.tree.leaves(task.params[name])) == count


@pytest.mark.parametrize("write", [kohya.write, peft.write])
def test_what_is_trained_is_what_the_file_holds(config, lora, model, tmp_path, write):
    write(tmp_path / "a.safetensors", lora)
    cfg = config("a.safetensors", *TEXT)
    networks = abstract_model(cfg, "float32").networks
    held = read(tmp_path / "a.safetensors", {name: networks[name] for name in lora})
    ranks = {adapter.rank for own in held.values() for adapter in own.values()}
    assert len(ranks) == 2
    # Neither of the two says the alphas: each layer is trained at a scale of 1.
    held = unfolded(held, lambda component, path, rank: float(rank))
    assert_trains(cfg, held)


def test_a_file_of_the_unet_alone(config, lora, tmp_path):
    only = {"unet": of_one_rank(lora["unet"])}
    kohya.write(tmp_path / "lora.safetensors", only)
    assert_trains(config(".", "--lora.rank", 3, "--lora.alpha", 2), only)  # which say the same


def of_one_rank(adapters):
    return {path: adapter for path, adapter in adapters.items() if adapter.rank == 3}


def test_what_the_options_say_otherwise_is_named_at_once(config, lora, tmp_path):
    told = {path: adapter._replace(alpha=2.0) for path, adapter in lora["unet"].items()}
    kohya.write(tmp_path / "a", {"unet": told})
    flags = ["--lora.rank", 8, "--lora.alpha", 9, "--lora.targets", "attention+ff"]
    cfg = config("a", *flags, *TEXT)
    with pytest.raises(UserError) as error:
        add_adapters(cfg, abstract_model(cfg, "float32").networks, TextRule())
    said = str(error.value)
    for line in (
        "it has no layers of the text_encoder",
        "lora.rank is 8, it has 3, 5",
        "lora.alpha is 9, it has 2",
        "lora.targets is 'attention+ff', it does not have unet.",
    ):
        assert line in said


def test_a_text_encoder_that_would_be_lost_is_named(config, lora, tmp_path):
    kohya.write(tmp_path / "a", lora)
    cfg = config("a")
    with pytest.raises(UserError, match="has layers of the text_encoder.*train.text_encoder does"):
        add_adapters(cfg, abstract_model(cfg, "float32").networks, TextRule())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lora": {"start": "a", "init": "kaiming"}}, "init without effect"),
        ({"lora": {"start": "a", "rslora": True}}, "rslora without effect"),
        ({"lora": {"start": "a"}, "train": {"mode": "full"}}, "lora.start has no meaning"),
    ],
)
def test_options_beside_a_start(values, said):
    with pytest.raises(ValueError, match=said):
        Config.model_validate(values)


@pytest.mark.slow
def test_a_real_file_of_the_reference_script(test_data):
    """In the names of diffusers 0.14: 128 layers of rank 4."""
    file = test_data / "lora" / "catundchat_sd15.safetensors"
    text = nnx.eval_shape(lambda: CLIPTextModel(CLIPTextConfig(), rngs=OneKey()))
    networks = {"unet": abstract_unet(SD15), "text_encoder": text}
    held = read(file, networks)["unet"]
    config = Config.model_validate({"lora": {"start": str(file)}})
    add_adapters(config, networks, TextRule())
    found = extract(networks["unet"])
    assert len(found) == 128
    for path, adapter in held.items():
        assert isinstance(adapter, Adapter)
        jax.tree.map(np.testing.assert_array_equal, found[path], adapter)


def test_steps_of_rate_zero_end_in_the_files_bytes(train, lora, tmp_path):
    same = {name: of_one_rank(own) for name, own in lora.items()}
    kohya.write(tmp_path / "a", same)
    flags = ["--lora.start", tmp_path / "a", "--lora.rank", 3, *TEXT, "--train.steps", 1]
    run = train("b", *flags, "--optim.rates", ".=0")
    assert run.status == 0, run.err
    before = tensors(tmp_path / "a")
    after = run.lora()
    assert before.keys() == after.keys()
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)
