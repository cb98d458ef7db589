"""The base of all samplers: tables made once on the host, and a pure step that reads them.

A sampler is a pytree, so that it can be an argument of a jitted function: its tables are leaves,
and only what changes the program (class, config, whether noise is drawn) is static.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from flax_sd.errors import UserError

# One value a step: float32 [m] in NumPy, made on the host; a scalar Array inside a step.
# Any: arithmetic of either with an Array gives an Array, which NumPy's own types do not say.
Table = Any
Tables = TypeVar("Tables")

Denoise = Callable[[Array, Array], Array]


class Carry(NamedTuple):
    """The state that a step passes to the next."""

    x: jax.Array  # [b, h, w, c] float32, the latents at the level of the next step
    memory: Any = ()  # a multistep method's earlier outputs


class Grid(NamedTuple):
    """The steps: their timesteps and their noise."""

    timesteps: np.ndarray  # [m] int32, or float32 where diffusers asks for fractions
    draws: np.ndarray  # bool [m], the steps at which diffusers draws noise
    init_noise_sigma: np.floating  # scalar float32, the scale of the first x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(abc.ABC):
    """Steps from noise to a sample: the interface of every method.

    Attributes:
      order: calls of the network in one step of diffusers' class; each is a step here.
    """

    order: ClassVar[int] = 1
    grid: Grid
    stochastic: bool = dataclasses.field(metadata={"static": True})  # whether any step draws noise

    @property
    def timesteps(self) -> Shaped[Array, " m"]:
        """The timestep that the network is called with at each step."""
        return jnp.asarray(self.grid.timesteps)

    @property
    def draws(self) -> Bool[Array, " m"]:
        """True at the steps at which diffusers draws noise from the generator."""
        return jnp.asarray(self.grid.draws)

    @property
    def init_noise_sigma(self) -> Float[Array, ""]:
        """Standard deviation of the first x."""
        return jnp.asarray(self.grid.init_noise_sigma)

    def init(self, x: Float[ArrayLike, "b h w c"]) -> Carry:
        """Returns the first carry.

        Args:
          x: noise N(0, I) times `init_noise_sigma`.
        """
        return Carry(jnp.asarray(x, jnp.float32))

    def scale_input(
        self, x: Float[ArrayLike, "b h w c"], i: Int[ArrayLike, ""]
    ) -> Float[Array, "b h w c"]:
        """Returns the input of the network at step i.

        Args:
          x: the `x` of the carry.
          i: index of the step; may be traced.
        """
        del i
        return jnp.asarray(x)

    @abc.abstractmethod
    def step(
        self,
        carry: Carry,
        model_output: Float[ArrayLike, "b h w c_out"],
        i: Int[ArrayLike, ""],
        noise: Float[ArrayLike, "b h w c"] | None = None,
    ) -> Carry:
        """Goes from the level of step i to that of step i + 1.

        Args:
          carry: result of the previous step, or of `init`.
          model_output: output of the network at `timesteps[i]`, guidance included.
          i: index of the step; may be traced.
          noise: N(0, I); read by stochastic samplers only, at the steps of `draws`.
        """

    def _drawn(self, noise: Float[ArrayLike, "b h w c"] | None) -> Float[Array, "b h w c"]:
        """Returns the noise of a step of a stochastic sampler."""
        if noise is None:
            raise UserError(f"{type(self).__name__} draws noise here: step() needs it")
        return jnp.asarray(noise, jnp.float32)


def row(tables: Tables, i: Int[ArrayLike, ""]) -> Tables:
    """Returns entry i of each table; i may be traced."""
    return jax.tree.map(lambda table: jnp.asarray(table)[i], tables)


def run_steps(
    sampler: Sampler,
    denoise: Denoise,
    carry: Carry,
    steps: tuple[ArrayLike, ArrayLike],
    noise: Float[ArrayLike, "m b h w c"] | None = None,
) -> Carry:
    """Runs the steps from the first of a pair of numbers up to the second, without it.

    Both numbers may be traced: one compiled program then runs all steps in one call, or one step
    in each call, with the same result.

    Args:
      sampler: the sampler, a pytree: where a jitted function takes it as an argument, another
        config or step option of the same class and number of steps reuses the compiled program.
      denoise: (scaled x [b, h, w, c], t scalar) → the network's output, guidance included.
      carry: result of the step before, or of `init`.
      steps: the first step, and the one after the last.
      noise: N(0, I) for each step of the sampler; None if it never draws.
    """
    t, z = sampler.timesteps, None if noise is None else jnp.asarray(noise)

    def step(i: Array, carry: Carry) -> Carry:
        out = denoise(sampler.scale_input(carry.x, i), t[i])
        return sampler.step(carry, out, i, None if z is None else z[i])

    return jax.lax.fori_loop(*steps, step, carry)
