"""A sampler is a table: a pure step reads a row of it, and one compiled program serves all of them.

Each method of Stable Diffusion is linear in x, the network's output, what it remembers and noise;
only its weights are its own, and `recording` finds them on the host before the first step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from flax_sd.errors import UserError
from flax_sd.samplers.clipping import Clip
from flax_sd.samplers.learned_variance import LearnedVariance

# One value a step: float32 [m, …] in NumPy, made on the host; an Array inside a step.
# Any: arithmetic of either with an Array gives an Array, which NumPy's own types do not say.
Table = Any
Tables = TypeVar("Tables")

Denoise = Callable[[Array, Array], Array]

NEW = ("output", "x0", "noise")  # what a step adds to the state, and then computes with


class Carry(NamedTuple):
    """The state that a step passes to the next."""

    x: jax.Array  # [b, h, w, c] float32, the latents at the level of the next step
    memory: tuple[jax.Array, ...] = ()  # [b, h, w, c] each, of what the method uses again


class Grid(NamedTuple):
    """The steps: their timesteps and their noise."""

    timesteps: np.ndarray  # [m] int32, or float32 where diffusers asks for fractions
    draws: np.ndarray  # bool [m], the steps at which diffusers draws noise
    init_noise_sigma: np.floating  # scalar float32, the scale of the first x


class Rows(NamedTuple):
    """What each step computes, float32 [m, …]."""

    scale: Table  # of the network's input
    to_x0: Table  # [m, 2], the weights of x and of the output in the x̂_0 that is clipped
    state: Table  # [m, s, s + 3], of x, the memory and `NEW` in each value of the next state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Steps from noise to a sample.

    A pytree, so that it can be an argument of a jitted function: its tables are leaves, and only
    what changes the program is static.

    Attributes:
      order: calls of the network in one step of diffusers' class; each is a step here.
      stochastic: whether any step draws noise.
      clip: keeps x̂_0 in range, which is not linear.
      variance: of the noise where the network predicts it, which is not linear either.
    """

    grid: Grid
    rows: Rows
    order: int = dataclasses.field(default=1, metadata={"static": True})
    stochastic: bool = dataclasses.field(metadata={"static": True})
    clip: Clip | None = None
    variance: LearnedVariance | None = None

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

    @property
    def remembers(self) -> int:
        """Number of values that a step passes on beside x."""
        return self.rows.state.shape[-2] - 1

    def padded(self, steps: int, memory: int) -> "Sampler":
        """Returns the same sampler with tables of a given size, which never reads the rows past it.

        Samplers of one size share a compiled program, but for those that draw noise at their steps,
        threshold x̂_0 or learn the variance.

        Args:
          steps: number of rows, at least those that there are.
          memory: number of values to pass on, at least those that it remembers.
        """
        own, slots = self.rows.state.shape[:2]
        state = np.zeros((own, memory + 1, memory + 1 + len(NEW)), np.float32)
        state[:, :slots, :slots] = self.rows.state[..., :slots]
        state[:, :slots, memory + 1 :] = self.rows.state[..., slots:]
        grid = self.grid._replace(timesteps=self.grid.timesteps.astype(np.float32))
        whole = dataclasses.replace(
            self,
            grid=grid,
            rows=self.rows._replace(state=state),
            order=1,
            clip=self.clip or Clip(largest=np.inf),
        )

        def pad(table: Table) -> Table:
            if np.ndim(table) == 0:
                return table
            return np.pad(table, [(0, steps - own)] + [(0, 0)] * (table.ndim - 1))

        return jax.tree.map(pad, whole)

    def init(self, x: Float[ArrayLike, "b h w c"]) -> Carry:
        """Returns the first carry, with an empty memory.

        Args:
          x: noise N(0, I) times `init_noise_sigma`.
        """
        x = jnp.asarray(x, jnp.float32)
        return Carry(x, (jnp.zeros_like(x),) * self.remembers)

    def scale_input(
        self, x: Float[ArrayLike, "b h w c"], i: Int[ArrayLike, ""]
    ) -> Float[Array, "b h w c"]:
        """Returns the input of the network at step i.

        Args:
          x: the `x` of the carry.
          i: index of the step; may be traced.
        """
        return jnp.asarray(x) * row(self.rows.scale, i)

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

        Raises:
          UserError: there is no noise, or the output has not the channels that it should have.
        """
        at, x, whole = row(self.rows, i), carry.x, jnp.asarray(model_output, jnp.float32)
        self._check(whole, x)
        out = whole[..., : x.shape[-1]]
        new: list[Array | None] = [out, None, None]
        if self.clip is not None:
            new[1] = self.clip(at.to_x0[0] * x + at.to_x0[1] * out)
        if self.stochastic:
            if noise is None:
                raise UserError("this sampler draws noise: step() needs it")
            new[2] = jnp.asarray(noise, jnp.float32)
            if self.variance is not None:
                new[2] *= self.variance.std(whole[..., x.shape[-1] :], i)
        values = [x, *carry.memory, *new]
        first, *others = (_weighted(weights, values) for weights in at.state)
        return Carry(first, tuple(others))

    def _check(self, output: Array, x: Array) -> None:
        """Refuses an output that has not the channels that the sampler reads."""
        channels = x.shape[-1] if self.variance is None else 2 * x.shape[-1]
        if output.shape[-1] != channels:
            raise UserError(
                f"this sampler needs a network with {channels} output channels, "
                f"this one has {output.shape[-1]}: see variance_type"
            )


def _weighted(weights: Array, values: list[Array | None]) -> Array:
    """Returns the sum of the values that there are, times their weights."""
    terms = [weights[k] * value for k, value in enumerate(values) if value is not None]
    return sum(terms[1:], terms[0])


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
        sampler with tables of the same sizes reuses the compiled program.
      denoise: (scaled x [b, h, w, c], t scalar) → the network's output, guidance included.
      carry: result of the step before, or of `init`.
      steps: the first step, and the one after the last.
      noise: N(0, I) for each step from the first on; None if the sampler never draws.
    """
    t, z = sampler.timesteps, None if noise is None else jnp.asarray(noise)

    def step(i: Array, carry: Carry) -> Carry:
        out = denoise(sampler.scale_input(carry.x, i), t[i])
        return sampler.step(carry, out, i, None if z is None else z[i - steps[0]])

    return jax.lax.fori_loop(*steps, step, carry)
