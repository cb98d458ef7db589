"""The scales at which a LoRA of a file is trained on."""

import math
import shutil

import numpy as np
import pytest

from flax_sd.config import file as config_files
from flax_sd.lora.formats import kohya
from flax_sd.lora.inject import extract
from flax_sd.models.text_encoders import TextRule
from flax_sd.training.setup.base_model import abstract_model
from flax_sd.training.setup.lora import add_adapters
from tests.lora.formats.files import header
from tests.random_loras import random_lora, write_run

KOHYA, PEFT = "lora.safetensors", "pytorch_lora_weights.safetensors"


def mixed(model, alpha_of):
    """Layers of ranks 4 and 16 with the alphas of a run."""
    made = {rank: random_lora(model, rank=rank, alpha=alpha_of(rank)) for rank in (4, 16)}
    return {
        name: {path: made[16 if i % 3 == 0 else 4][name][path] for i, path in enumerate(own)}
        for name, own in made[4].items()
    }


@pytest.fixture
def started(config_file):
    """The LoRA that a run which starts from a file trains."""

    def start(path, *flags):
        given = ["--lora.start", path, "--lora.rank", 4, "--train.text_encoder", "true", *flags]
        config = config_files.parse(config_file, [str(flag) for flag in given])
        networks = abstract_model(config, "float32").networks
        add_adapters(config, networks, TextRule())
        return {name: extract(networks[name]) for name in ("unet", "text_encoder")}

    return start


def step(adapter):
    """What a first step of Adam makes of a layer's weights: it moves each number by the rate."""
    rng = np.random.default_rng(0)
    up, down = (
        half - 1e-3 * rng.choice(np.float32([-1, 1]), half.shape)
        for half in (adapter.up, adapter.down)
    )
    return adapter._replace(up=up, down=down).delta() - adapter.delta()


def assert_trains_as(found, wanted):
    """The same updates now, and as far a move in a step."""
    for name, own in wanted.items():
        assert found[name].keys() == own.keys()
        for path, adapter in own.items():
            ours, size = found[name][path], np.abs(adapter.delta()).max()
            assert np.abs(ours.delta() - adapter.delta()).max() <= 1e-5 * size
            assert ours.scale == pytest.approx(adapter.scale, rel=1e-6)
            moved = np.linalg.norm(step(adapter))
            assert np.linalg.norm(step(ours) - step(adapter)) <= 1e-3 * moved


OPTIONS = {
    "plain": ({}, lambda rank: float(rank)),
    "alpha": ({"alpha": 8.0}, lambda rank: 8.0),
    "rslora": ({"rslora": True, "alpha": 2.0}, lambda rank: 2.0 * math.sqrt(rank)),
}


@pytest.mark.parametrize("file", [KOHYA, PEFT, "loras/step-000030.safetensors", "."])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_run_is_gone_on_with_at_its_own_scales(started, model, tmp_path, caplog, options, file):
    """A2: the file's one alpha is its largest rank, or it has none."""
    settings, alpha_of = OPTIONS[options]
    lora, run = mixed(model, alpha_of), tmp_path / "cat"
    write_run(run, lora, model, lora=settings)
    (run / "loras").mkdir()
    shutil.copy(run / KOHYA, run / "loras" / "step-000030.safetensors")
    assert_trains_as(started(run / file), lora)
    as_written = options == "alpha" and file != PEFT or options == "plain" and file == PEFT
    assert caplog.text.count("does not tell the scales of its layers") == int(not as_written)
    assert as_written or "with the scales of its run" in caplog.text


def test_a_run_that_began_with_a_run(started, model, tmp_path):
    """A2: the config of the second says nothing of the scales."""
    lora = mixed(model, float)
    write_run(tmp_path / "cat", lora, model, lora={"alpha": 8.0})
    eights = mixed(model, lambda rank: 8.0)
    write_run(tmp_path / "dog", eights, model, lora={"start": str(tmp_path / "cat" / PEFT)})
    assert_trains_as(started(tmp_path / "dog" / PEFT), eights)
    shutil.rmtree(tmp_path / "cat")
    at_one = {
        name: {path: adapter.with_alpha(adapter.rank) for path, adapter in own.items()}
        for name, own in eights.items()
    }
    assert_trains_as(started(tmp_path / "dog" / PEFT), at_one)


@pytest.mark.parametrize(
    ("flags", "alpha", "said"),
    [([], None, "with a scale of 1"), (["--lora.alpha", 2], 2, "with 2 (lora.alpha) / rank")],
)
def test_elsewhere_the_options_say_it(started, model, tmp_path, caplog, flags, alpha, said):
    """A2."""
    lora = mixed(model, float)
    kohya.write(tmp_path / "a.safetensors", lora)
    (tmp_path / "config.yaml").write_text("of: another program")
    wanted = {
        name: {path: one.with_alpha(alpha or one.rank) for path, one in own.items()}
        for name, own in lora.items()
    }
    assert_trains_as(started(tmp_path / "a.safetensors", *flags), wanted)
    assert f"they are trained {said}" in caplog.text


def test_a_file_that_tells_its_alphas_keeps_them(started, model, tmp_path, caplog):
    lora = mixed(model, lambda rank: 2.0)
    kohya.write(tmp_path / "a.safetensors", lora)
    assert header(tmp_path / "a.safetensors")["ss_network_alpha"] == "2.0"
    assert_trains_as(started(tmp_path / "a.safetensors"), lora)
    one = {name: random_lora(model, rank=4, alpha=4.0)[name] for name in lora}
    kohya.write(tmp_path / "b.safetensors", one)  # one rank, one alpha: it is true
    assert_trains_as(started(tmp_path / "b.safetensors"), one)
    assert not caplog.text
