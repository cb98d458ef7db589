"""The LoRA step on so many fake devices of this CPU: figures as a line of JSON.

python -m benchmarks.compiled.mesh_step MODEL DEVICES REPEATS

Without REPEATS it is compiled and not run.
"""

import json
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.common.options import side_of
from flax_sd.commands.plan.collectives import collectives
from flax_sd.commands.plan.program import Program
from flax_sd.config import Config
from flax_sd.system import sharding
from flax_sd.training import optim
from flax_sd.training import step as train_step
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import make_task, trained_size


def config_of(
    model: pathlib.Path, batch_size: int, dtype: str = "float32", remat: str = "none"
) -> Config:
    """A run at the size that the UNet was trained on."""
    return Config.model_validate(
        {
            "model": {"path": str(model)},
            "data": {"resolution": side_of(model)},
            "train": {"batch_size": batch_size, "remat": remat},
            "compute_dtype": dtype,
        }
    )


def compile_only(config: Config, mesh: Mesh) -> dict[str, Any]:
    """What the step sends, and the bytes of a gradient; from shapes alone."""
    program = Program(config, mesh)
    step = program.compile_step(config.train.batch_size)
    if step is None:
        sys.exit("the compiler finds no room for the step")
    return {"traffic": step.traffic, "gradient": 4 * sum(program.trained.values())}


def run(config: Config, mesh: Mesh, repeats: int) -> dict[str, Any]:
    """The same, and the seconds of each step after one to warm up."""
    task = make_task(config, load_model(config, config.compute_dtype))
    tx = optim.make_optimizer(config.optim, config.train.steps)
    fresh = train_step.init_state(task.params, tx, config.seed, scaled=False)
    state = sharding.replicate(fresh, mesh)
    frozen = sharding.shard_frozen(task.frozen, mesh)
    side, batch_size = config.data.resolution, config.train.batch_size
    ids = (np.zeros((batch_size, 77), np.int32),)
    inputs = np.zeros((batch_size, side, side, 3), np.float32), ids
    batch = task.encode(frozen, *sharding.shard_batch(inputs, mesh))
    jitted: Any = train_step.make_train_step(task.loss, tx, mesh=mesh)
    step = jitted.lower(state, frozen, batch).compile()
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        state, metrics = step(*jitted.first, state, frozen, batch)
        float(metrics.loss)
        seconds.append(time.perf_counter() - start)
    return {
        "traffic": collectives(step.as_text()),
        "gradient": 4 * trained_size(task),
        "seconds": seconds[1:],
    }


def main(model: str, devices: str, repeats: str) -> None:
    """Compiles, and runs if asked to."""
    jax.config.update("jax_num_cpu_devices", int(devices))
    config = config_of(pathlib.Path(model), int(devices))
    mesh = sharding.make_mesh(-1, 1)
    figures = run(config, mesh, int(repeats)) if int(repeats) else compile_only(config, mesh)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
