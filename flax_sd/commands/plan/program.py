"""A config's training step, compiled from shapes: no weight is read and no number computed."""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, Sharding

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
from flax_sd.training.setup.base_model import abstract_model
from flax_sd.training.setup.task import make_objective


class Compiled(NamedTuple):
    """What the compiler says about a program.

    Attributes:
      size: bytes on each device beside the weights and the state.
      seconds: that compiling took.
      traffic: its collectives, by kind.
    """

    size: int
    seconds: float
    traffic: dict[str, Traffic]


class Program:
    """The step of a run and the encoding in front of it, with the shapes of all they read.

    Attributes:
      parameters: how many each component has, without a LoRA.
      trained: how many numbers of each component are trained.
      state, frozen: shapes with their shardings, as a run has arrays.
      encodes_once: whether pictures and captions are encoded before the first step; the pictures
        themselves are not looked at, so those that are square already do not count.
      frozen_in_steps: of the frozen leaves those that the steps hold.
    """

    def __init__(self, config: Config, mesh: Mesh):
        """Finds the model's configs; `config.compute_dtype` is one, not "auto".

        Raises:
          UserError: the model cannot be found, or does not fit the config.
        """
        model = abstract_model(config, config.compute_dtype)
        self.parameters = {name: _size(nnx.state(net)) for name, net in model.networks.items()}
        self._objective = objective = make_objective(config, model)
        self.trained = {name: _size(tree) for name, tree in objective.params.items()}
        tx = optim.make_optimizer(config.optim, config.train.steps)
        scaled = scales_loss(config.compute_dtype)
        self._step: Any = train_step.make_train_step(
            objective.loss,
            tx,
            accumulate=config.train.accumulate,
            scaled=scaled,
            ema_decay=config.train.ema_decay,
            constrain=objective.constrain,
            mesh=mesh,
        )
        state = jax.eval_shape(
            lambda params: train_step.init_state(
                params, tx, config.seed, scaled=scaled, averaged=config.train.ema_decay is not None
            ),
            objective.params,
        )
        self.state = _place(state, sharding.replicated(mesh))
        self.frozen = jax.tree.map(
            lambda leaf: _place(leaf, sharding.fsdp_sharding(leaf.shape, mesh)), objective.frozen
        )
        data = config.data
        once = data.encode_once and data.center_crop and not data.stream
        self.encodes_once = objective.moments is not None and once
        names = frozen_in_steps(objective, config) if self.encodes_once else self.frozen
        self.frozen_in_steps = {name: self.frozen[name] for name in names}
        self._rows = NamedSharding(mesh, sharding.BATCH)
        width, height = max(buckets.shapes(config.data), key=math.prod)
        self._picture, self._side = (height, width, 3), data.resolution
        self._ids = tokenize([""], next(iter(model.tokenizers), None)).shape[1:]

    def compile_step(self, batch_size: int) -> Compiled | None:
        """The step for a batch of that size; None if the compiler finds no room for it."""
        return _compile(self.lower_step(batch_size), self._batch(batch_size))

    def lower_step(self, batch_size: int) -> Any:
        """The step for a batch of that size, before it is compiled."""
        return self._step.lower(self.state, self.frozen_in_steps, self._batch(batch_size))

    def rows_encoded(self, batch_size: int) -> int:
        """How many pictures go through the autoencoder together."""
        return rows_at_once(self._side, self._rows.mesh.size) if self.encodes_once else batch_size

    def compile_encoding(self, batch_size: int) -> Compiled | None:
        """The autoencoder's and the text encoder's part; None as above."""
        inputs = self._inputs(batch_size)
        return _compile(self._objective.encode.lower(self.frozen, *inputs), inputs)

    def flops(self, batch_size: int) -> tuple[int, int]:
        """Of the step and of the encoding, for all of the batch."""
        step = flops.count_flops(
            self._step, self.state, self.frozen_in_steps, self._batch(batch_size)
        )
        inputs = self._inputs(batch_size)
        return step, flops.count_flops(self._objective.encode, self.frozen, *inputs)

    def _inputs(self, batch_size: int) -> list[Any]:
        """Pixels and token ids."""
        pixels = jax.ShapeDtypeStruct((batch_size, *self._picture), jnp.float32)
        ids = jax.ShapeDtypeStruct((batch_size, *self._ids), jnp.int32)
        return _place([pixels, ids], self._rows)

    def _batch(self, batch_size: int) -> Any:
        shapes = self._objective.encode.eval_shape(self.frozen, *self._inputs(batch_size))
        return _place(shapes, self._rows)


def _compile(lowered: Any, inputs: Any) -> Compiled | None:
    """Compiles a function whose inputs are not held before and after it, as all else is."""
    start = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise
    seconds = time.monotonic() - start
    return Compiled(size_of(compiled, inputs), seconds, collectives(compiled.as_text()))


def size_of(compiled: Any, inputs: Any) -> int:
    """Bytes on each device that a compiled program takes beside what is held all the time."""
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    size += memory.output_size_in_bytes - memory.alias_size_in_bytes  # what is donated is held
    return size + bytes_per_device(inputs)


def _place(tree: Any, where: Sharding) -> Any:
    """The shapes under a sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
    )


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
