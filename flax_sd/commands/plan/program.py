"""A config's training step, compiled from shapes: no weight is read and no number computed."""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, Sharding
from jaxtyping import PyTree

from flax_sd.commands.plan.collectives import Traffic, collectives
from flax_sd.config import Config
from flax_sd.data import buckets
from flax_sd.system import flops, sharding
from flax_sd.system.memory import bytes_per_device
from flax_sd.system.precision import scales_loss
from flax_sd.training import optim
from flax_sd.training import step as train_step
from flax_sd.training.inputs.batches import frozen_in_steps, tokenize
from flax_sd.training.inputs.encoding import rows_at_once
from flax_sd.training.losses import EncodedBatch
from flax_sd.training.setup.base_model import abstract_model
from flax_sd.training.setup.task import make_task


class Compiled(NamedTuple):
    """The compiler's report on a program.

    Attributes:
      size: bytes on each device, without the weights and the state.
      seconds: compile time.
      traffic: its collectives, by kind.
    """

    size: int
    seconds: float
    traffic: dict[str, Traffic]


class Program:
    """The step of a run and the encoding before it, with the shapes of all their inputs.

    Attributes:
      parameters: number of parameters of each component, without a LoRA.
      trained: number of trained parameters of each component.
      state, frozen: shapes with their shardings.
      encodes_once: images and captions are encoded before the first step; the image files are not
        read, so all are assumed to need a crop.
      frozen_in_steps: the frozen leaves that the steps read.
    """

    def __init__(self, config: Config, mesh: Mesh):
        """Reads the model's configs; `config.compute_dtype` must not be "auto".

        Raises:
          UserError: the model cannot be found, or does not fit the config.
        """
        model = abstract_model(config, config.compute_dtype)
        self.parameters = {name: _size(nnx.state(net)) for name, net in model.networks.items()}
        self._task = task = make_task(config, model)
        self.trained = {name: _size(tree) for name, tree in task.params.items()}
        tx = optim.make_optimizer(config.optim, config.train.steps)
        scaled = scales_loss(config.compute_dtype)
        self._step: Any = train_step.make_train_step(
            task.loss,
            tx,
            accumulate=config.train.accumulate,
            scaled=scaled,
            ema_decay=config.train.ema_decay,
            constrain=task.constrain,
            mesh=mesh,
        )
        state = jax.eval_shape(
            lambda params: train_step.init_state(
                params, tx, config.seed, scaled=scaled, averaged=config.train.ema_decay is not None
            ),
            task.params,
        )
        self.state = _place(state, sharding.replicated(mesh))
        self.frozen = jax.tree.map(
            lambda leaf: _place(leaf, sharding.fsdp_sharding(leaf.shape, mesh)), task.frozen
        )
        data = config.data
        once = data.encode_once and data.center_crop and not data.stream
        self.encodes_once = task.moments is not None and once
        names = frozen_in_steps(task, config) if self.encodes_once else self.frozen
        self.frozen_in_steps = {name: self.frozen[name] for name in names}
        self._rows = NamedSharding(mesh, sharding.BATCH)
        width, height = max(buckets.shapes(config.data), key=math.prod)
        self._image, self._side = (height, width, 3), data.resolution
        self._ids = [ids.shape[1:] for ids in tokenize([""], model.tokenizers)]

    def compile_step(self, batch_size: int) -> Compiled | None:
        """Compiles the step for a batch size; None if the compiler runs out of memory."""
        return _compile(self.lower_step(batch_size), self._batch(batch_size))

    def lower_step(self, batch_size: int) -> jax.stages.Lowered:
        """Lowers the step for a batch size, without compiling it."""
        return self._step.lower(self.state, self.frozen_in_steps, self._batch(batch_size))

    def rows_encoded(self, batch_size: int) -> int:
        """Returns how many images the autoencoder encodes together."""
        return rows_at_once(self._side, self._rows.mesh.size) if self.encodes_once else batch_size

    def compile_encoding(self, batch_size: int) -> Compiled | None:
        """Compiles the encoding of a batch; None if the compiler runs out of memory."""
        inputs = self._inputs(batch_size)
        return _compile(self._task.encode.lower(self.frozen, *inputs), inputs)

    def flops(self, batch_size: int) -> tuple[int, int]:
        """Returns the FLOPs of a step and of the encoding, for the whole batch."""
        step = flops.count_flops(
            self._step, self.state, self.frozen_in_steps, self._batch(batch_size)
        )
        inputs = self._inputs(batch_size)
        return step, flops.count_flops(self._task.encode, self.frozen, *inputs)

    def _inputs(self, batch_size: int) -> list[PyTree]:
        """Returns the shapes of pixels and of the token ids for each text encoder."""
        pixels = jax.ShapeDtypeStruct((batch_size, *self._image), jnp.float32)
        ids = tuple(jax.ShapeDtypeStruct((batch_size, *own), jnp.int32) for own in self._ids)
        return _place([pixels, ids], self._rows)

    def _batch(self, batch_size: int) -> PyTree:
        shapes = self._task.encode.eval_shape(self.frozen, *self._inputs(batch_size))
        if isinstance(shapes, EncodedBatch):
            shapes = shapes._replace(time_ids=jax.ShapeDtypeStruct((batch_size, 6), jnp.int32))
        return _place(shapes, self._rows)


def _compile(lowered: Any, inputs: PyTree) -> Compiled | None:
    """Compiles a function; `inputs` are those that do not stay on the device."""
    start = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise
    seconds = time.monotonic() - start
    return Compiled(size_of(compiled, inputs), seconds, collectives(compiled.as_text()))


def size_of(compiled: Any, inputs: PyTree) -> int:
    """Returns the bytes on each device that a program needs beside the resident arrays."""
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    size += memory.output_size_in_bytes - memory.alias_size_in_bytes  # donated inputs are resident
    return size + bytes_per_device(inputs)


def _place(tree: PyTree, where: Sharding) -> PyTree:
    """Returns the shapes with a sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
    )


def _size(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
