"""One seed, one LoRA: on any number of devices, sharded or not, in one process or in two."""

import time

import numpy as np
import pytest
from PIL import Image

from tests.processes import run, run_two, start, start_joined
from tests.training_runs import assert_same_lora, contents, make_images, metrics, tensors

TRAIN = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
jax.config.update("jax_default_matmul_precision", "highest")
from flax_sd import cli
from flax_sd.system import sharding
sharding.MIN_DIVIDED_SIZE = 64  # so that fsdp divides the weights of a tiny model
shard_frozen, divided = sharding.shard_frozen, []
def counted(*args):
    sharded = shard_frozen(*args)
    leaves = jax.tree.leaves(sharded)
    divided.append(sum(not leaf.sharding.is_fully_replicated for leaf in leaves))
    return sharded
sharding.shard_frozen = counted
status = cli.train(sys.argv[2:])
print(f"status {status}, {jax.process_count()} processes, divided {max(divided, default=0)}")
sys.exit(status)
"""

PACE = {"images_per_second", "wait_share", "tflops", "host_gb"}  # of the machine, not the run
# Adam divides each gradient by its own size: with its usual epsilon of 1e-8 one weight of this
# model, whose gradient is of that size, moves with the rounding of the sums.
FIXED = ["--train.batch_size", 8, "--optim.epsilon", 1e-6]


def lora(folder, name="lora.safetensors"):
    return tensors(folder / name)


@pytest.fixture
def flags(config_file, tmp_path):
    return lambda name, *more: [config_file, "--output", tmp_path / name, *FIXED, *more]


@pytest.fixture
def alone(train):
    """Trains on one device in this process; returns the folder."""

    def run(*more):
        ended = train("alone", *FIXED, *more)
        assert ended.status == 0, ended.err
        return ended.folder

    return run


@pytest.fixture(autouse=True)
def environ(compile_cache, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", compile_cache)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.mark.slow
def test_any_number_of_devices_gives_one_lora(flags, alone, tmp_path):
    for name, devices, more in [("two", 2, []), ("sharded", 8, ["--mesh.fsdp", 2])]:
        out = run(TRAIN, devices, *flags(name, *more))
        assert ("divided 0" not in out) == (name == "sharded")
    expected = lora(alone())
    assert max(np.abs(v).max() for k, v in expected.items() if "lora_up" in k) > 1e-4
    for name in ("two", "sharded"):
        assert_same_lora(lora(tmp_path / name), expected)


@pytest.mark.slow
def test_shapes_masks_and_what_is_dropped_do_not_depend_on_devices(flags, alone, tmp_path):
    (tmp_path / "wide").mkdir()
    folder = make_images(tmp_path / "wide", 7)
    for name in ("0.png", "3.png", "4.png"):  # wide and half transparent: a shape of its own
        wide = Image.open(folder / name).resize((80, 24)).convert("RGBA")
        wide.paste((0, 0, 0, 0), (0, 0, 40, 24))
        wide.save(folder / name)
    more = ["--data.path", folder, "--train.batch_size", 4, "--lora.dropout", 0.2]
    more += ["--data.buckets", "area", "--data.mask", "alpha"]
    more += ["--model.base_dtype", "int8"]
    twice = TRAIN.replace(
        "status = cli", "assert not cli.train([*sys.argv[2:], *HALF])\nstatus = cli"
    )
    out = run(f"HALF = ['--train.steps', '2']\n{twice}", 4, *flags("four", *more))
    assert "resumes: step 2" in out
    assert_same_lora(lora(tmp_path / "four"), lora(alone(*more)))


SIGNAL_ONE = TRAIN.replace(
    "status = cli",
    """
import os, signal
from flax_sd.training.checkpoints import Checkpoints
save = Checkpoints.save
def save_and_signal(self, step, state, best=None):
    save(self, step, state, best)
    if step == 2 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)
Checkpoints.save = save_and_signal
status = cli""",
).replace("sys.exit(status)", "sys.exit(0 if status == 130 else 1)")


@pytest.mark.slow
def test_two_processes_write_one_set_of_files_and_one_goes_on_with_it(
    flags, train, alone, tmp_path
):
    """A signal to one of the two saves and stops both."""
    (tmp_path / "held").mkdir()
    held = make_images(tmp_path / "held", 3, seed=5)
    more = ["--sample.every", 2, "--sample.prompts", "a cat", "--sample.steps", 1]
    more += ["--data.held_out", held, "--train.steps", 6]
    out = run_two(SIGNAL_ONE, 1, *flags("both", *more))
    assert ["status 130, 2 processes" in text for text in out] == [True, True]
    assert ["found" in text for text in out] == [True, False]
    assert "another process was told to stop: saved at step 4" in out[0]
    resumed = train("both", *FIXED, *more)
    assert "resumes: step 4" in resumed.out
    both, one = resumed.folder, alone(*more)
    assert_same_lora(lora(both), lora(one))
    names = [
        {
            name.replace(f"{folder.name}.safetensors", "named")
            for name in contents(folder)
            if not name.startswith("checkpoints")
        }
        for folder in (one, both)
    ]
    assert names[0] == names[1]
    for a, b in zip(metrics(one), metrics(both), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - set(PACE):
            # A change is the difference of two losses near 1, which are rounded at 1e-7.
            rounding = 1e-6 if "_change" in name else 0.0
            assert np.isclose(a[name], b[name], rtol=1e-4, atol=rounding), name


# B1: a TPU's mesh orders devices by its topology, so a process may hold any rows of a batch.
PERMUTED = TRAIN.replace(
    "status = cli",
    """
make_mesh = sharding.make_mesh
def permuted(data, fsdp, devices=None):
    devices = list(jax.devices() if devices is None else devices)
    return make_mesh(data, fsdp, devices[::2] + devices[1::2])
sharding.make_mesh = permuted
status = cli""",
).replace("print(f", "print('rows', sharding.process_rows(8, permuted(-1, 1)).tolist())\nprint(f")


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_two_processes_encode_a_share_each(flags, alone, tmp_path, monkeypatch, shared):
    caches = [tmp_path / f"cache{i}" for i in range(2)]
    own = PERMUTED
    if not shared:  # as hosts have whose disks are their own
        own = "import os\nos.environ['XDG_CACHE_HOME'] += os.environ['JAX_PROCESS_ID']\n" + PERMUTED
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches[0] if shared else tmp_path / "cache"))
    out = run_two(own, 2, *flags("both", "--data.center_crop", "true"))
    assert ["status 0, 2 processes" in text for text in out] == [True, True]
    assert "rows [0, 1, 4, 5]" in out[0] and "rows [2, 3, 6, 7]" in out[1]
    held = [contents(cache / "flax_sd" / "encoded") for cache in caches[: 1 if shared else 2]]
    assert all(len(files) == 7 + 8 for files in held)  # images; captions and the empty one
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert_same_lora(lora(tmp_path / "both"), lora(alone("--data.center_crop", "true")))


@pytest.mark.slow
def test_two_processes_write_one_model(flags, alone, tmp_path):
    more = ["--train.mode", "vae", "--train.steps", 1]
    run_two(TRAIN, 1, *flags("both", *more))
    one, both = (
        tensors(folder / "model/vae/diffusion_pytorch_model.safetensors")
        for folder in (alone(*more), tmp_path / "both")
    )
    assert one.keys() == both.keys()
    for key, value in one.items():
        assert np.abs(value - both[key]).max() <= 1e-4 * np.abs(value).max(), key


@pytest.mark.slow
def test_a_problem_in_one_process_ends_both(flags, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "foreign").write_text("x")
    run_two(TRAIN, 1, *flags("a"), status=2)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 0), (4, 2)])
def test_processes_give_the_lora_of_one_and_end_together_when_one_dies(
    flags, alone, tmp_path, count, victim
):
    saved = tmp_path / "a" / "checkpoints" / "6"  # which is whole after what was saved before it
    steps = ["--train.steps", 100_000]
    processes = start_joined(count, TRAIN, 1, *flags("a", *steps))
    others = [process for i, process in enumerate(processes) if i != victim]
    try:
        while not saved.exists():
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        processes[victim].kill()
        said = [process.communicate(timeout=60)[1] for process in others]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    # With the first process goes JAX's service, at which JAX may end the others by itself.
    told = ("another process of this run is gone", "another task died")
    assert all(any(words in err for words in told) for err in said)
    if victim:
        assert processes[0].returncode == 2 and "Traceback" not in said[0]
    assert_same_lora(lora(tmp_path / "a", "loras/step-000004.safetensors"), lora(alone()))


@pytest.mark.slow
def test_a_batch_that_does_not_divide_over_the_devices(flags):
    process = start(TRAIN, 8, *flags("a", "--train.accumulate", 2))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert error.strip() == (
        "error: train.batch_size 8 in 2 parts (train.accumulate): a batch of 4 does not divide "
        "over 8 devices; near it: 8"
    )


@pytest.mark.slow
def test_determinism_is_asked_for_before_a_device_is_looked_for(flags, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # a run in this process has asked for it too
    code = TRAIN.replace("sys.exit(status)", "import os; print(os.environ.get('XLA_FLAGS'))")
    bad = ["--model.path", tmp_path / "no-model"]
    assert "--xla_gpu_deterministic_ops=true" in run(code, 1, *flags("a", *bad))
    out = run(code, 1, *flags("b", *bad, "--train.no_deterministic"))
    assert "status 2" in out and "deterministic_ops" not in out
