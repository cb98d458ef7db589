"""PNDM, the sampler in SD 1.x's files (Liu et al. 2022, arXiv 2202.09778).

Runge-Kutta steps (PRK) make the first outputs of a linear multistep method (PLMS). Stable Diffusion
skips PRK and takes one step twice instead.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from flax_sd.diffusion.schedule import alphas_cumprod
from flax_sd.errors import UserError
from flax_sd.samplers.adams_bashforth import blended
from flax_sd.samplers.forms import Form
from flax_sd.samplers.levels import Level, level_of, predicted_epsilon
from flax_sd.samplers.recording import Prediction, Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.timesteps import SpacedConfig, alpha_at, integer_timesteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class PNDMConfig(SpacedConfig):
    """The fields of diffusers' `PNDMScheduler`."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False


def make_pndm(config: PNDMConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `PNDMScheduler` is with this config.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    alphas = alphas_cumprod(config)
    visited = [int(t) for t in integer_timesteps(config, num_inference_steps, alphas)]
    run = _Run(config, alphas, config.num_train_timesteps // num_inference_steps)
    if config.skip_prk_steps:
        run.first_step_twice(visited[:2])
        run.multistep(visited[1:])
    elif len(visited) >= 4:
        run.runge_kutta(visited[:4])
        run.multistep(visited[3:])
    else:
        raise UserError(
            f"num_inference_steps is {num_inference_steps}: PNDM's Runge-Kutta steps need at least "
            "4; skip_prk_steps true leaves them out"
        )
    return run.record.sampler(run.x)


class _Run:
    """The steps so far: x, and up to three outputs, newest first."""

    def __init__(self, config: PNDMConfig, alphas: np.ndarray, stride: int):
        self.record, self.stride = Recording(config.prediction_type), stride
        self.x, self.outputs = self.record.x, list[Form]()
        self._alphas = alphas
        self._final = np.float32(1) if config.set_alpha_to_one else alphas[0]

    def first_step_twice(self, visited: Sequence[int]) -> None:
        """Takes the first step, and takes it again with the mean of the outputs at its ends."""
        t, stride = visited[0], self.stride
        first = self._call(t)
        self.x = self._step(first.x, first.output, t, t - stride)
        self.outputs = [first.output]
        if len(visited) > 1:
            t = visited[1]
            mean = (first.output + self._call(t).output) / 2
            self.x = self._step(first.x, mean, t + stride, t)

    def runge_kutta(self, visited: Sequence[int]) -> None:
        """Takes three steps of four calls: at a timestep, twice halfway to the next, and there."""
        half, keep = self.stride // 2, self.record.keep
        for t, after in zip(visited, visited[1:], strict=False):
            middle = after + half
            first = self._call(t)
            self.outputs = [first.output, *self.outputs[:2]]
            mean = keep(first.output / 6)
            self.x = self._step(first.x, first.output, t, t - half)
            for end in (middle, after):
                output = self._call(middle).output
                mean = keep(mean + output / 3)
                self.x = self._step(first.x, output, t, end)
            self.x = self._step(first.x, mean + self._call(after).output / 6, t, after)

    def multistep(self, visited: Sequence[int]) -> None:
        """Takes steps of the Adams-Bashforth method, of as many outputs as there are."""
        for t in visited:
            now = self._call(t)
            recent = [now.output, *self.outputs]
            self.x = self._step(now.x, blended(recent), t, t - self.stride)
            self.outputs = recent[:3]

    def _call(self, t: int) -> Prediction:
        return self.record.predict(self.x, self._level(t))

    def _level(self, t: int) -> Level:
        return level_of(t, self._alphas[t])

    def _step(self, x: Form, output: Form, start: int, end: int) -> Form:
        """Goes from timestep start to timestep end (eq. 9), by a blend of raw outputs.

        x_s = √(ᾱ_s / ᾱ_t) x - (ᾱ_s - ᾱ_t) ε̂ / (ᾱ_t √(1 - ᾱ_s) + √(ᾱ_t (1 - ᾱ_t) ᾱ_s)).
        """
        a, a_end = np.float64(self._alphas[start]), alpha_at(self._alphas, end, final=self._final)
        # diffusers turns v into ε with the x and t of the step's start.
        epsilon = predicted_epsilon(self.record.kind, self._level(start), x, output)
        denominator = a * np.sqrt(1 - a_end) + np.sqrt(a * (1 - a) * a_end)
        return x * np.sqrt(a_end / a) - epsilon * ((a_end - a) / denominator)
