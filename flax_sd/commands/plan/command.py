"""The plan command: the memory and work of a run, and what to change if it does not fit."""

import math

from flax_sd.commands.plan.devices import Target, local_target, topology_target
from flax_sd.commands.plan.program import Compiled, Program
from flax_sd.commands.plan.search import MAX_BATCH, largest_batch
from flax_sd.config import Config
from flax_sd.config.commands import PlanOptions
from flax_sd.config.file import Given
from flax_sd.run_folder import saved_config
from flax_sd.system import compiler, sharding
from flax_sd.system.allocator import take_gpu_memory
from flax_sd.system.exit_status import DONE, FAILED
from flax_sd.system.memory import bytes_per_device, parse_size, show_size
from flax_sd.system.precision import resolve_dtype
from flax_sd.system.progress import Progress
from flax_sd.training.inputs.batches import check_batch
from flax_sd.training.monitoring.memory import advice

NO_ROOM = "more than the compiler has"


def main(options: PlanOptions, given: Given) -> int:
    """Prints the plan; returns 1 if the run does not fit, 0 if it fits or the memory is unknown.

    Raises:
      UserError: the config, the model or the options are wrong.
    """
    take_gpu_memory()
    memory = None if options.device_memory is None else parse_size(options.device_memory)
    config = given.config
    if config.train.deterministic and options.topology is None:
        compiler.ask_for_determinism()
    config, named = saved_config.settled(config), options.topology
    target = local_target() if named is None else topology_target(named)
    if memory is not None:
        target = target._replace(memory=memory)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, target.devices)
    check_batch(config, mesh)
    dtype = "bfloat16" if named and config.compute_dtype == "auto" else config.compute_dtype
    config = config.model_copy(update={"compute_dtype": resolve_dtype(dtype)})
    return Plan(config, Program(config, mesh), target, Progress()).show()


class Plan:
    """The plan of a program; each batch size is compiled once."""

    def __init__(self, config: Config, program: Program, target: Target, progress: Progress):
        self._config, self._program = config, program
        self._target, self._progress = target, progress
        self._batch = config.train.batch_size
        self._unit = len(target.devices) * config.train.accumulate
        self._weights = bytes_per_device(program.frozen_in_steps)
        self._all_weights = bytes_per_device(program.frozen)
        self._state = bytes_per_device(program.state)
        self._steps: dict[int, Compiled | None] = {}

    def show(self) -> int:
        """Prints what the config's batch needs, then what fits; returns the exit status."""
        self._say_counts()
        self._encoding = self._encoding_of_a_image()
        total = self._needed(self._batch)
        self._say_costs(total)
        limit = self._target.memory
        if limit is None:
            name = self._target.name
            self._say(f"\nmemory of {name} is unknown; pass it as --device-memory 24GB")
            return DONE
        largest = largest_batch(self._needed, limit, self._unit, self._batch)
        more = " or more" if largest >= self._unit * MAX_BATCH else ""
        self._say(f"\nlargest train.batch_size that fits  {largest or 'none'}{more}")
        if total <= limit:
            self._say(f"train.batch_size {self._batch} fits")
            return DONE
        self._say(f"train.batch_size {self._batch} does not fit; to make it smaller:")
        for line in advice(self._config, len(self._target.devices), largest):
            self._say(f"  {line}")
        return FAILED

    def _needed(self, batch_size: int) -> float:
        """Returns the peak of bytes on each device; infinite if the compiler runs out of memory."""
        if batch_size not in self._steps:
            self._steps[batch_size] = self._program.compile_step(batch_size)
        step = self._steps[batch_size]
        own = math.inf if step is None else step.size
        return float(self._state + max(self._weights + own, self._while_encoding(batch_size)))

    def _while_encoding(self, batch_size: int) -> float:
        """Returns the bytes of all weights and of encoding, on each device."""
        return self._all_weights + self._encoding * self._program.rows_encoded(batch_size)

    def _encoding_of_a_image(self) -> float:
        """Returns the bytes on each device to encode one image."""
        for batch_size in (self._program.rows_encoded(self._batch), self._unit):
            if compiled := self._program.compile_encoding(batch_size):
                return compiled.size / batch_size
        return math.inf

    def _say_counts(self) -> None:
        config, target, program = self._config, self._target, self._program
        self._say(
            f"{config.model.path} for {len(target.devices)} x {target.name}, "
            f"{config.compute_dtype}, train.batch_size {self._batch}\n"
        )
        trained = {name: program.trained.get(name, 0) for name in program.parameters}
        rows = [(name, f"{n:,}", f"{trained[name]:,}") for name, n in program.parameters.items()]
        whole = sum(program.parameters.values()), sum(trained.values())
        rows.append(("all", f"{whole[0]:,}", f"{whole[1]:,}"))
        self._progress.table([("", "parameters", "trained"), *rows])

    def _say_costs(self, total: float) -> None:
        """Prints the memory of a device, the work, and the communication between devices."""
        step = self._steps[self._batch]
        of = f" of {show_size(self._target.memory)}" if self._target.memory else ""
        encoding = self._while_encoding(self._batch) - self._all_weights
        when = "once, before the first step" if self._program.encodes_once else "before each step"
        self._say("\nmemory of each device")
        self._progress.table(
            [
                ("  frozen weights", show_size(self._all_weights)),
                ("  of these during the steps", show_size(self._weights)),
                ("  trained leaves and optimizer", show_size(self._state)),
                ("  batch, activations and temporaries", show_size(step.size) if step else NO_ROOM),
                (f"  encoding, {when}", show_size(encoding)),
                ("  peak", show_size(total) + of),
            ]
        )
        work, before = (count / self._batch / 1e12 for count in self._program.flops(self._batch))
        self._say("")
        self._progress.table(
            [
                ("TFLOP an image, step", f"{work:.4g}"),
                (
                    "TFLOP an image, encoding" + (" once" if self._program.encodes_once else ""),
                    f"{before:.4g}",
                ),
                ("compile time of the step", f"{step.seconds:.1f} s" if step else NO_ROOM),
            ]
        )
        self._say("\nbetween devices, a step" + ("" if step and step.traffic else "  nothing"))
        self._progress.table(
            [
                (f"  {kind}", f"{traffic.times} x", show_size(traffic.size))
                for kind, traffic in sorted(step.traffic.items() if step else ())
            ]
        )

    def _say(self, line: str) -> None:
        self._progress.say(line)
