"""What the plan says against the arrays of a run, and what it answers."""

import importlib.util
import re

import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd import cli
from flax_sd.commands.plan.program import Program
from flax_sd.config import file as config_file
from flax_sd.system import compiler, sharding
from flax_sd.system.memory import bytes_per_device
from flax_sd.training import optim, step
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import make_task, trained_size
from tests.processes import run

PLAN = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from flax_sd import cli
from flax_sd.system import sharding
sharding.MIN_DIVIDED_SIZE = 64  # so that fsdp divides the weights of a tiny model
print("status", cli.plan(sys.argv[2:]))
"""
MODES = {
    "lora": [],
    "text": ["--train.text_encoder"],
    "full": ["--train.mode", "full", "--compute_dtype", "bfloat16"],
    "vae": ["--train.mode", "vae"],
    "scaled": ["--compute_dtype", "float16"],
}


@pytest.fixture
def plan(config_file, capsys, monkeypatch):
    """Runs the command in this process; the status and what was printed."""
    monkeypatch.setenv("XLA_FLAGS", "")

    def call(*args):
        capsys.readouterr()
        status = cli.plan([str(config_file), *map(str, args)])
        return status, "".join(capsys.readouterr())

    return call


@pytest.mark.parametrize("mode", MODES)
def test_shapes_are_those_of_a_run(config_file, mode):
    config = _config(config_file, MODES[mode])
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    program, parts = Program(config, mesh), load_model(config, config.compute_dtype)
    parameters = {
        name: sum(leaf.size for leaf in jax.tree.leaves(jax.tree.map(np.asarray, _state(network))))
        for name, network in parts.networks.items()
    }
    assert program.parameters == parameters
    task = make_task(config, parts)
    assert sum(program.trained.values()) == trained_size(task)
    tx = optim.make_optimizer(config.optim, config.train.steps)
    scaled = config.compute_dtype == "float16"
    state = step.init_state(task.params, tx, config.seed, scaled=scaled)
    for shapes, arrays in ((program.frozen, task.frozen), (program.state, state)):
        assert jax.tree.structure(shapes) == jax.tree.structure(arrays)
        pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(arrays), strict=True)
        assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs)
        assert bytes_per_device(shapes) == bytes_per_device(arrays)


def _config(path, flags):
    config = config_file.parse(path, flags)
    dtype = "float32" if config.compute_dtype == "auto" else config.compute_dtype
    return config.model_copy(update={"compute_dtype": dtype})


def _state(network):
    return nnx.state(network)


def test_networks_that_leave_once_all_is_encoded_are_not_in_the_steps(config_file):
    def program(*flags):
        mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
        return Program(_config(config_file, [*flags]), mesh)

    crop, off = ["--data.center_crop", "true"], ["--data.encode_once", "false"]
    every = {"unet", "vae", "text_encoder"}
    for flags, once, kept in [
        ([], False, every),
        (crop, True, {"unet"}),
        ([*crop, *off], False, every),
        ([*crop, "--train.text_encoder"], True, {"unet", "text_encoder"}),
        ([*crop, "--train.mode", "vae"], False, {"vae"}),
    ]:
        made = program(*flags)
        assert (made.encodes_once, set(made.frozen_in_steps)) == (once, kept)
        assert made.rows_encoded(3) == (16 if once else 3)  # of 32 px


@pytest.mark.slow
def test_what_is_encoded_once_is_said_so(plan):
    _, out = plan("--device-memory", "1kB", "--data.center_crop", "true")
    sizes = [
        _bytes(re.search(rf"  {name} +([\d.]+ \w?B)", out)[1])
        for name in ("frozen weights", "of these during the steps")
    ]
    assert sizes[1] < 0.9 * sizes[0] and "encoding, once, before the first step" in out


def test_weights_are_not_read(config_file, model, tmp_path):
    config = _config(config_file, ["--model.path", str(_without_weights(model, tmp_path / "m"))])
    assert Program(config, sharding.make_mesh(1, 1, jax.devices()[:1])).parameters["unet"] > 0


def _without_weights(model, folder):
    for path in model.rglob("*"):
        if path.is_file() and path.suffix not in (".safetensors", ".bin"):
            copy = folder / path.relative_to(model)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return folder


@pytest.mark.slow
def test_what_fits_and_what_to_change_where_it_does_not(plan):
    status, out = plan("--device-memory", "1TB", "--train.batch_size", 128)
    assert status == 0 and "train.batch_size 128 fits" in out
    assert "of 1000.00 GB" in out and "between devices, a step  nothing" in out
    assert "largest train.batch_size that fits  128 or more" in out
    at_most = _bytes(re.search(r"peak +([\d.]+ \wB)", out)[1])

    status, out = plan("--device-memory", f"{at_most // 4}", "--train.batch_size", 128)
    assert status == 1 and "train.batch_size 128 does not fit" in out
    largest = int(re.search(r"largest train.batch_size that fits  (\d+)", out)[1])
    assert 8 <= largest <= 60
    for line in (f"--train.batch_size {largest}", "--train.remat blocks", "--train.accumulate"):
        assert line in out
    assert "--mesh.fsdp" not in out

    status, out = plan("--device-memory=10kB", "--train.batch_size", 1)
    assert status == 1 and "largest train.batch_size that fits  none" in out
    assert "--compute_dtype bfloat16" in out and "--train.batch_size" not in out


def _bytes(text):
    number, unit = text.split()
    return int(float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


@pytest.mark.slow
def test_only_the_gradients_of_the_lora_are_sent(config_file, compile_cache):
    args = [config_file, "--device-memory", "1kB"]
    environ = {"JAX_COMPILATION_CACHE_DIR": compile_cache}
    out = run(PLAN, 2, *args, **environ)
    assert "for 2 x cpu" in out and "status 1" in out
    trained = int(re.search(r"^all .* ([\d,]+)$", out, re.M)[1].replace(",", ""))
    kinds = re.findall(r"^  ([a-z-]+) +\d+ x +([\d.]+ \w?B)$", out, re.M)
    assert [kind for kind, _ in kinds] == ["all-reduce"]
    assert 0.9 * 4 * trained <= _bytes(kinds[0][1]) <= 1.1 * 4 * trained + 1000
    sharded = run(PLAN, 2, *args, "--mesh.fsdp", 2, **environ)
    assert "all-gather" in sharded
    frozen = [re.search(r"frozen weights +([\d.]+ \wB)", text)[1] for text in (out, sharded)]
    assert _bytes(frozen[1]) < 0.7 * _bytes(frozen[0])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--topology", "v9:2x2"], "--topology is 'v9:2x2': a topology is written v5e:4x4"),
        (["--topology", "v5e"], "--topology is 'v5e': a topology is written v5e:4x4"),
        (["--device-memory", "lots"], "--device-memory is 'lots'; a size is written 24GB"),
        (["--mesh.fsdp", "3"], "mesh.fsdp is 3, which does not divide"),
        (["--mesh.data", "3"], "mesh.data 3 x mesh.fsdp 1 = 3, but there are"),
        (["--train.bach_size", "3"], "did you mean train.batch_size?"),
        (["--model.path", "nowhere"], "folder nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_message(plan, args, message):
    status, out = plan(*args)
    assert status == 2 and message in out and "Traceback" not in out


@pytest.mark.parametrize(
    ("flags", "asked"),
    [([], True), (["--train.no_deterministic"], False), (["--topology", "v5e"], False)],
)
def test_determinism_is_asked_for_as_in_a_run(plan, monkeypatch, flags, asked):
    calls = []
    monkeypatch.setattr(compiler, "ask_for_determinism", lambda: calls.append("asked"))
    plan("--model.path", "nowhere", *flags)
    assert calls == ["asked"] * asked


def test_a_topology_needs_the_compiler(plan, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, out = plan("--topology", "v5e:2x2")
    assert status == 2 and 'pip install "flax_sd[tpu]"' in out


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: its compiler is what is tested"
)
def test_a_topology_that_is_not_there(config_file):
    flags = ["--train.batch_size", 4, "--topology", "v5e:2x2", "--device-memory", "1kB"]
    out = run(PLAN, 1, config_file, *flags)
    assert "for 4 x v5e, bfloat16" in out and "all-reduce" in out and "status 1" in out
