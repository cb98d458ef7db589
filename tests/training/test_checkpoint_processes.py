"""Checkpoints of processes that run out of disk, are killed, or are two."""

import json
import pathlib
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd.training.checkpoints import Checkpoints
from tests import processes

FULL_DISK = """
import pathlib, resource, sys, jax.numpy as jnp, numpy as np
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.errors import UserError
folder = pathlib.Path(sys.argv[1])
state = {"x": np.random.default_rng(0).normal(size=(400, 500))}
checkpoints = Checkpoints(folder, 3)
checkpoints.save(1, state)
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    checkpoints.save(2, state)
    checkpoints.wait()
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
checkpoints = Checkpoints(folder, 3)
step, restored = checkpoints.restore_newest(state)
assert step == 1 and np.array_equal(restored["x"], state["x"])
checkpoints.close()
"""


@pytest.mark.slow
def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    out = processes.run(FULL_DISK, tmp_path)
    assert f"cannot write checkpoints to {tmp_path}" in out
    assert "too large" in out.lower()  # what stands in for a full disk here


SAVES = """
import pathlib, sys, jax, jax.numpy as jnp
from flax_sd.training.checkpoints import Checkpoints
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), 2)
template = {"x": jnp.zeros((600, 700)), "y": [jnp.zeros(5) for _ in range(8)]}
newest = checkpoints.restore_newest(template)
step = newest[0] if newest else 0
while True:
    step += 1
    checkpoints.save(step, jax.tree.map(lambda v: v + step, template))
    print("saving", step, flush=True)
"""


@pytest.mark.slow
def test_sigkill_while_saving_leaves_good_checkpoints(tmp_path, caplog):
    template = {"x": jnp.zeros((600, 700)), "y": [jnp.zeros(5) for _ in range(8)]}
    last = 0
    for saves, delay in [(1, 0.0), (3, 0.01), (4, 0.03)]:
        process = processes.start(SAVES, tmp_path)
        assert process.stdout is not None
        begun = [process.stdout.readline() for _ in range(saves)][-1]
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        begun = int((begun + process.communicate()[0]).split()[-1])
        checkpoints = Checkpoints(tmp_path, 2)
        newest = checkpoints.restore_newest(template)
        if newest is None:
            assert begun == 1
            continue
        step, state = newest
        # A save begins when the one before is whole.
        assert begun - 1 <= step <= begun + 1
        jax.tree.map(lambda v, step=step: np.testing.assert_array_equal(v, step), state)
        assert step > last
        last = step
        checkpoints.close()
    assert last > 2
    assert "damaged" not in caplog.text


TWO_PROCESSES = """
import pathlib, sys, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from jax.sharding import NamedSharding, PartitionSpec as P
from flax_sd.system import distributed, sharding
from flax_sd.training.checkpoints import Checkpoints

assert distributed.initialize_distributed()
mesh = sharding.make_mesh(2, 2)
host = np.arange(24, dtype=np.float32).reshape(8, 3)
rows = NamedSharding(mesh, P("data"))
state = sharding.replicate({"x": host, "key": jax.random.key(4), "step": 3}, mesh)
state["divided"] = jax.make_array_from_callback(host.shape, rows, lambda i: host[i])
described = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding)
abstract = jax.tree.map(described, state)
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), 2)
assert checkpoints.restore_newest(abstract) is None
for step in (1, 2, 3):
    checkpoints.save(step, state)
    state = jax.jit(lambda s: {**s, "x": s["x"] + 1}, donate_argnums=0)(state)
checkpoints.wait()
assert checkpoints.steps() == [2, 3], checkpoints.steps()
if jax.process_index() == 0:
    data = [p for p in pathlib.Path(sys.argv[1], "3").rglob("*") if p.is_file() and "d" in p.parts]
    for path in data:
        path.write_bytes(path.read_bytes()[:-9])
distributed.any_process(True)
step, restored = checkpoints.restore_newest(abstract)
assert step == 2, step
same = jax.tree.map(lambda a, b: a.sharding == b.sharding and a.dtype == b.dtype, restored, state)
assert all(jax.tree.leaves(same)), same
np.testing.assert_array_equal(np.asarray(restored["x"]), host + 1)
for shard in restored["divided"].addressable_shards:
    np.testing.assert_array_equal(shard.data, host[shard.index])
jax.jit(lambda s: jax.random.normal(s["key"]) + s["x"].sum())(restored)
assert checkpoints.steps() == [2]
checkpoints.save(3, restored)
checkpoints.close()
assert checkpoints.steps() == [2, 3]
print("done")
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    outputs = processes.run_two(TWO_PROCESSES, tmp_path)
    assert all("done" in output for output in outputs)
    listing = json.loads(pathlib.Path(tmp_path, "3", "leaves", "metadata").read_text())
    assert set(listing["leaves"]) == {"x", "key", "step", "divided"}
    assert all(len(digest) == 64 for *_, digest in listing["leaves"].values())
