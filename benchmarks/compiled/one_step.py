"""Traces, lowers and compiles a recipe's training step, and runs it: figures as a line of JSON.

python benchmarks/compiled/one_step.py RECIPE MODEL STEPS CHANGES

With 0 steps it is not run: the weights of SDXL in float32 take 10 GB.

Nothing of benchmarks/ is imported, so that the flax_sd of another checkout can be measured too.
"""

import copy
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from flax_sd.system.allocator import restart_with_tunables

# Options that a run is often repeated with, and a value that no recipe has.
NUMBERS = {
    "train.steps": 123,
    "train.ema_decay": 0.97,
    "optim.learning_rate": 1.23e-4,
    "optim.warmup_steps": 17,
    "optim.beta2": 0.98,
    "optim.weight_decay": 0.03,
    "optim.max_grad_norm": 0.7,
    "lora.alpha": 5.0,
}


def main(recipe: str, model: str, steps: str, changes: str) -> None:
    """Measures; CPU seconds are those of all threads."""
    import jax
    import yaml

    from flax_sd.commands.plan.program import Program
    from flax_sd.config import Config
    from flax_sd.system import sharding

    jax.config.update("jax_enable_compilation_cache", False)
    written = yaml.safe_load(pathlib.Path(recipe).read_text()) | {"compute_dtype": "float32"}
    written["model"]["path"] = model

    def program_of(**changed: Any) -> tuple[Config, Any, tuple[Any, ...]]:
        options = copy.deepcopy(written)
        for name, value in changed.items():
            section, option = name.split(".")
            options.setdefault(section, {})[option] = value
        config = Config.model_validate(options)
        program = Program(config, sharding.make_mesh(-1, 1))
        batch = program._batch(config.train.batch_size)
        return config, program, (program.state, program.frozen_in_steps, batch)

    config, program, shapes = program_of()
    traced, tracing, _ = timed(lambda: program._step.trace(*shapes))
    lowered, lowering, _ = timed(traced.lower)
    compiled, compiling, wall = timed(lowered.compile)
    figures = {
        "lines of StableHLO": lowered.as_text().count("\n"),
        "tracing and lowering, CPU s": tracing + lowering,
        "compiling, CPU s": compiling,
        "compiling, s": wall,
    }
    if int(steps):
        figures["step, s"] = run(config, program, shapes, compiled, int(steps))
    if int(changes):
        texts = {digest(lowered.as_text())}
        for name, value in NUMBERS.items():
            _, other, shapes = program_of(**{name: value})
            texts.add(digest(other._step.lower(*shapes).as_text()))
        figures["programs"] = len(texts)
    print(json.dumps(figures), flush=True)


def run(config: Any, program: Any, shapes: Any, compiled: Any, steps: int) -> list[float]:
    """Runs the step on random numbers; returns the seconds of each but the first."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flax_sd.training import optim
    from flax_sd.training.step import init_state

    rng = np.random.default_rng(0)

    def filled(shape: Any) -> jax.Array:
        if jnp.issubdtype(shape.dtype, jnp.floating):
            return jnp.asarray(0.02 * rng.standard_normal(shape.shape, np.float32), shape.dtype)
        return jnp.zeros(shape.shape, shape.dtype)

    params, frozen, batch = jax.tree.map(filled, (program._task.params, *shapes[1:]))
    averaged = config.train.ema_decay is not None
    tx = optim.make_optimizer(config.optim, config.train.steps)
    state = init_state(params, tx, 0, scaled=False, averaged=averaged)
    first, seconds = getattr(program._step, "first", ()), []
    for _ in range(1 + steps):
        start = time.perf_counter()
        state, metrics = compiled(*first, state, frozen, batch)
        float(metrics.loss)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Returns the result, CPU seconds and seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.process_time() - cpu, time.perf_counter() - start


def digest(text: str) -> str:
    """Returns what a program is recognised by."""
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    restart_with_tunables()
    main(*sys.argv[1:])
