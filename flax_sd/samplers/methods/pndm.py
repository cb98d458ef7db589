"""PNDM, the sampler in SD 1.x's files (Liu et al. 2022, arXiv 2202.09778).

Runge-Kutta steps (PRK) make the first outputs of a linear multistep method (PLMS). Stable Diffusion
skips PRK and takes one step twice instead. The kind of each step is data, so that a scan sees one
program: weights of the outputs, and which of them are kept.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from flax_sd.diffusion.schedule import alphas_cumprod, predict_epsilon
from flax_sd.diffusion.scheduler_config import read_config
from flax_sd.errors import UserError
from flax_sd.samplers.sampler import Carry, Grid, Sampler, Table, row
from flax_sd.samplers.timesteps import SpacedConfig, integer_timesteps, previous

ADAMS_BASHFORTH = np.array([55, -59, 37, -9], np.float32) / 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class PNDMConfig(SpacedConfig):
    """The fields of diffusers' `PNDMScheduler`."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False


class Memory(NamedTuple):
    """The earlier outputs and states that PNDM keeps beside x."""

    outputs: tuple[jax.Array, jax.Array, jax.Array]  # [b, h, w, c] each, newest first
    average: jax.Array  # [b, h, w, c], of a round of Runge-Kutta so far
    start: jax.Array  # [b, h, w, c], x at the round's first call, from which its steps go


class Blend(NamedTuple):
    """The weights by which each step uses and keeps outputs; float32 [m] unless noted."""

    weights: Table  # [m, 4], of this output and the three kept ones
    average_weight: Table  # of the average, in the output that is used
    average_keep: Table  # of the average, in the next average
    average_gain: Table  # of this output, in the next average
    keeps_output: Table  # bool
    keeps_start: Table  # bool: this x is the next start
    from_start: Table  # bool: the step goes from the start, not from x


class Transfer(NamedTuple):
    """Coefficients of each step's formula (9), float32 [m]."""

    signal: Table  # √ᾱ_t
    sigma: Table  # √(1 - ᾱ_t)
    x_weight: Table
    output_weight: Table


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PNDM(Sampler):
    """x_s = √(ᾱ_s / ᾱ_t) x - (ᾱ_s - ᾱ_t) ε̂ / (ᾱ_t √(1 - ᾱ_s) + √(ᾱ_t (1 - ᾱ_t) ᾱ_s)) (eq. 9)."""

    blend: Blend
    transfer: Transfer
    prediction_type: str = dataclasses.field(metadata={"static": True})

    def init(self, x: Float[ArrayLike, "b h w c"]) -> Carry:
        """Returns the first carry, from x = noise, with an empty memory."""
        x = jnp.asarray(x, jnp.float32)
        zero = jnp.zeros_like(x)
        return Carry(x, Memory((zero, zero, zero), average=zero, start=zero))

    def step(
        self,
        carry: Carry,
        model_output: Float[ArrayLike, "b h w c_out"],
        i: Int[ArrayLike, ""],
        noise: Float[ArrayLike, "b h w c"] | None = None,
    ) -> Carry:
        """Takes the step of one call; PNDM is deterministic and needs its steps in order."""
        del noise
        (x, memory), out = carry, jnp.asarray(model_output, jnp.float32)
        at, to = row((self.blend, self.transfer), i)
        recent = (out, *memory.outputs)
        used = at.average_weight * memory.average
        for weight, output in zip(at.weights, recent, strict=True):
            used += weight * output
        newest, second, third = (
            jnp.where(at.keeps_output, new, old)
            for new, old in zip(recent[:3], memory.outputs, strict=True)
        )
        kept = Memory(
            outputs=(newest, second, third),
            average=at.average_keep * memory.average + at.average_gain * out,
            start=jnp.where(at.keeps_start, x, memory.start),
        )
        x = jnp.where(at.from_start, memory.start, x)
        # diffusers blends the raw outputs, and turns v into ε with the x and t of the step's start.
        eps = predict_epsilon(self.prediction_type, x, used, to.signal, to.sigma)
        return Carry(to.x_weight * x - to.output_weight * eps, kept)


def make_pndm(raw: Mapping[str, object], num_inference_steps: int) -> PNDM:
    """Builds the sampler that diffusers' `PNDMScheduler` is with this config.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    config = read_config(PNDMConfig, raw)
    alphas = alphas_cumprod(config)
    visited = integer_timesteps(config, num_inference_steps, alphas)
    stride = config.num_train_timesteps // num_inference_steps
    if config.skip_prk_steps:
        blend, t, start, end = _plms_alone(visited, stride)
    elif len(visited) >= 4:
        blend, t, start, end = _prk_then_plms(visited, stride)
    else:
        raise UserError(
            f"num_inference_steps is {num_inference_steps}: PNDM's Runge-Kutta steps need at least "
            "4; skip_prk_steps true leaves them out"
        )
    return PNDM(
        grid=Grid(t, np.full(t.shape, False), np.float32(1)),
        stochastic=False,
        blend=blend,
        transfer=_transfer(config, alphas, start, end),
        prediction_type=config.prediction_type,
    )


def _plms_alone(
    visited: np.ndarray, stride: int
) -> tuple[Blend, np.ndarray, np.ndarray, np.ndarray]:
    """Returns blend, timesteps, and start and end of each step, without Runge-Kutta."""
    t = np.insert(visited, 1, visited[1:2])  # the second timestep comes twice
    weights = np.tile(ADAMS_BASHFORTH, (len(t), 1))
    few = np.array([[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [3 / 2, -1 / 2, 0, 0]], np.float32)
    growing = np.concatenate([few, np.array([[23, -16, 5, 0]], np.float32) / 12])
    weights[:4] = growing[: len(t)]
    again = np.arange(len(t)) == 1  # the first step once more, with the mean of both its ends
    zero = np.zeros(len(t), np.float32)
    blend = Blend(weights, zero, zero, zero, ~again, np.arange(len(t)) == 0, again)
    return blend, t, np.where(again, t + stride, t), np.where(again, t, t - stride)


def _prk_then_plms(
    visited: np.ndarray, stride: int
) -> tuple[Blend, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the same, with three rounds of Runge-Kutta first.

    A round calls the network at a timestep, twice halfway to the next, and at the next.
    """
    half, plms = stride // 2, visited[3:]
    first, after = visited[:3], visited[1:4]
    middle = after + half
    calls = np.stack([first, middle, middle, after], axis=1).ravel()
    ends = np.stack([first - half, middle, middle - half, after], axis=1).ravel()
    kind = np.concatenate([np.tile(np.arange(4), 3), np.full(len(plms), 4)])  # 4 is PLMS

    def table(*by_kind: ArrayLike) -> np.ndarray:
        return np.array(by_kind, np.float32)[kind]

    this, sixth = np.array([1, 0, 0, 0]), np.array([1 / 6, 0, 0, 0])
    blend = Blend(
        weights=table(this, this, this, sixth, ADAMS_BASHFORTH),
        average_weight=table(0, 0, 0, 1, 0),
        average_keep=table(1, 1, 1, 0, 0),
        average_gain=table(1 / 6, 1 / 3, 1 / 3, 0, 0),
        keeps_output=kind % 4 == 0,
        keeps_start=kind % 4 == 0,
        from_start=kind % 4 > 0,
    )
    t, start = np.concatenate([calls, plms]), np.concatenate([first.repeat(4), plms])
    return blend, t, start, np.concatenate([ends, plms - stride])


def _transfer(
    config: PNDMConfig, alphas: np.ndarray, start: np.ndarray, end: np.ndarray
) -> Transfer:
    """Returns the coefficients of steps from timesteps `start` to timesteps `end`."""
    final = np.float32(1) if config.set_alpha_to_one else alphas[0]
    a, a_end = alphas[start], previous(alphas, end, final=final)
    denominator = a * np.sqrt(1 - a_end) + np.sqrt(a * (1 - a) * a_end)
    return Transfer(np.sqrt(a), np.sqrt(1 - a), np.sqrt(a_end / a), (a_end - a) / denominator)
