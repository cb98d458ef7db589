import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.system import distributed, sharding
from tests import processes

EIGHT_DEVICES = """
import functools, jax, jax.numpy as jnp, numpy as np, pytest
jax.config.update("jax_num_cpu_devices", 8)
from jax.sharding import PartitionSpec as P
from flax_sd.system import distributed, sharding
from flax_sd.errors import UserError

shapes = [sharding.make_mesh(data, fsdp).shape for data, fsdp in [(-1, 1), (-1, 4), (2, 4)]]
assert [(m["data"], m["fsdp"]) for m in shapes] == [(8, 1), (2, 4), (2, 4)], shapes
assert sharding.make_mesh(-1, 1, jax.devices()[:2]).size == 2
for data, fsdp, message in [
    (-1, 3, "fsdp is 3, which does not divide the 8 devices"),
    (3, 2, "data 3 x mesh.fsdp 2 = 6, but there are 8 devices"),
    (0, 1, "mesh.data is 0"),
]:
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(data, fsdp)
mesh = sharding.make_mesh(2, 4)

# Frozen weights: the largest divisible axis of a big leaf is divided, the rest is copied.
base = {
    "conv": jnp.ones((3, 3, 128, 64), jnp.bfloat16),
    "odd": jnp.arange(259.0 * 257).reshape(259, 257),
    "proj": jnp.arange(130.0 * 1024).reshape(130, 1024),
    "bias": jnp.ones(1024),
}
placed = sharding.shard_frozen(base, mesh)
specs = {name: leaf.sharding.spec for name, leaf in placed.items()}
assert specs["conv"] == P(None, None, "fsdp") and specs["proj"] == P(None, "fsdp"), specs
assert specs["odd"] == P() and specs["bias"] == P(), specs
assert placed["proj"].addressable_shards[0].data.shape == (130, 256)
jax.tree.map(np.testing.assert_array_equal, placed, base)

# A donated copy leaves its source alone, and its eight copies are apart from each other.
state = {"x": jnp.zeros((64, 64)), "key": jax.random.key(3), "n": 4, "host": np.ones((64, 64))}
copy = sharding.replicate(state, mesh)
assert copy["host"].dtype == jnp.float32 and copy["n"].dtype == jnp.int32
assert jnp.array_equal(jax.random.key_data(copy["key"]), jax.random.key_data(state["key"]))
step = jax.jit(lambda s: {**s, "x": s["x"] + 1, "host": s["host"] + 1}, donate_argnums=0)
new = step(step(copy))
assert copy["x"].is_deleted() and float(state["x"].sum()) == 0 and state["host"].sum() == 64 * 64
for shard in new["x"].addressable_shards:
    np.testing.assert_array_equal(shard.data, 2.0)
jax.random.normal(state["key"])

# A batch: rows in order over all devices.
rows = sharding.process_rows(16, mesh)
assert rows.tolist() == list(range(16))
pixels = np.arange(16 * 6, dtype=np.float32).reshape(16, 2, 3)
batch = sharding.shard_batch({"pixels": pixels}, mesh)
assert [s.data.shape for s in batch["pixels"].addressable_shards] == [(2, 2, 3)] * 8
np.testing.assert_array_equal(batch["pixels"].ravel(), np.arange(16 * 6))
for size, near in [(12, "8 or 16"), (3, "8")]:
    with pytest.raises(UserError, match=f"batch of {size} does not .* 8 devices; near it: {near}$"):
        sharding.process_rows(size, mesh)
assert distributed.any_process(True) and not distributed.any_process(False)
"""

TWO_PROCESSES = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from flax_sd.system import distributed, sharding

assert distributed.initialize_distributed() and jax.process_count() == 2
mesh = sharding.make_mesh(-1, 2)
rank = jax.process_index()
assert sharding.process_rows(8, mesh).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]][rank]
pixels = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
batch = sharding.shard_batch(pixels[sharding.process_rows(8, mesh)], mesh)
weights = sharding.shard_frozen(np.ones((3, 2**16), np.float32), mesh)
state = sharding.replicate({"x": np.float32(2), "key": jax.random.key(0)}, mesh)
loss = jax.jit(lambda b, w, s: (b.T @ b).sum() + w.sum() + s["x"])(batch, weights, state)
expected = (pixels.T @ pixels).sum() + 3 * 2**16 + 2
assert abs(float(loss) / expected - 1) < 1e-6, (loss, expected)
assert distributed.any_process(rank == 1) and not distributed.any_process(False)
print("done", rank)
"""


def test_eight_devices():
    processes.run(EIGHT_DEVICES)


@pytest.mark.slow
def test_two_processes():
    outputs = processes.run_two(TWO_PROCESSES)
    assert ["done 0" in outputs[0], "done 1" in outputs[1]] == [True, True]


def test_a_single_device_is_the_default():
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:1])
    tree = {"kernel": jnp.ones((300, 300)), "bias": jnp.zeros(3)}
    jax.tree.map(np.testing.assert_array_equal, sharding.shard_frozen(tree, mesh), tree)
    assert sharding.process_rows(3, mesh).tolist() == [0, 1, 2]


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "2",
}


@pytest.mark.parametrize(
    ("environ", "cluster"),
    [
        ({}, None),
        (SLURM, "slurm"),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1", "TPU_WORKER_ID": "0"}, "tpu"),
        ({"TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, "tpu"),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, "tpu"),
    ],
)
def test_processes_are_joined_only_where_there_are_several(environ, cluster):
    assert distributed.find_cluster(environ) == cluster


def test_a_tpu_vm_asks_its_metadata_server():
    assert distributed.find_cluster({}, tpu_vm=True) == "tpu"
    assert distributed.find_cluster({"TPU_SKIP_MDS_QUERY": "1"}, tpu_vm=True) is None
    assert distributed.find_cluster({"TPU_WORKER_HOSTNAMES": "localhost"}, tpu_vm=True) is None


def test_half_an_explicit_cluster_is_refused():
    with pytest.raises(UserError, match="JAX_PROCESS_ID is set but JAX_COORDINATOR_ADDRESS, JAX_N"):
        distributed.find_cluster({"JAX_PROCESS_ID": "0"})
