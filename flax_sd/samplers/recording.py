"""Records what a method does with the network's outputs, as the table of a sampler.

A method calls `predict` once for each call of the network and computes with the forms that it gets.
What it uses again after a later call gets a slot of the loop's memory, and nothing else does.
"""

import dataclasses
from functools import cached_property
from typing import SupportsFloat

import numpy as np

from flax_sd.errors import UserError
from flax_sd.samplers.clipping import Clip
from flax_sd.samplers.forms import Form, Value
from flax_sd.samplers.learned_variance import LearnedVariance
from flax_sd.samplers.levels import Level, predicted_epsilon, predicted_x0
from flax_sd.samplers.sampler import Grid, Rows, Sampler
from flax_sd.samplers.slots import Call, state_tables


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is known at a call of the network, as forms.

    Attributes:
      kind: the prediction type.
      level: the level of noise of x.
      x: the x that the network was called with, before its scaling.
      output: the network's output.
      clipped: x̂_0 in range; None where it is not clipped.
    """

    kind: str
    level: Level
    x: Form
    output: Form
    clipped: Form | None

    @cached_property
    def x0(self) -> Form:
        """x̂_0, in range where it is clipped."""
        if self.clipped is not None:
            return self.clipped
        return predicted_x0(self.kind, self.level, self.x, self.output)

    @cached_property
    def epsilon(self) -> Form:
        """ε̂ of the output, whatever x̂_0 is clipped to."""
        return predicted_epsilon(self.kind, self.level, self.x, self.output)

    @cached_property
    def epsilon_of_x0(self) -> Form:
        """The noise in x if x̂_0 is right; where x = x_0 + σ ε it is the slope dx/dσ."""
        if self.clipped is None and self.kind == "epsilon":
            return self.output
        return (self.x - self.x0 * self.level.signal) / self.level.sigma

    @cached_property
    def epsilon_in_range(self) -> Form:
        """ε̂ of the output, or of x̂_0 where that is clipped."""
        return self.epsilon if self.clipped is None else self.epsilon_of_x0


class Recording:
    """A run of a method on the host, with forms in place of pictures.

    Attributes:
      kind: the prediction type.
      x: the first x.
    """

    def __init__(self, kind: str, clip: Clip | None = None):
        """Begins a recording.

        Args:
          kind: the prediction type.
          clip: keeps x̂_0 in range.
        """
        self.kind, self._clip = kind, clip
        self.x = Form.of(Value(0, "x"))
        self._calls: list[Call] = []

    def predict(self, x: Form, level: Level) -> Prediction:
        """Calls the network at x, which is at that level of noise."""
        index = len(self._calls)
        if index:
            self._calls[-1].leads_to = x
            x = Form.of(Value(index, "x"))
        own, output = next(iter(x.weights)), Value(index, "output")
        clipped = None if self._clip is None else Value(index, "x0")
        self._calls.append(Call(level, own))
        found = clipped and Form.of(clipped)
        return Prediction(self.kind, level, x, Form.of(output), found)

    def noise(self) -> Form:
        """Draws noise N(0, I) at this call."""
        self._calls[-1].draws = True
        return Form.of(Value(len(self._calls) - 1, "noise"))

    def keep(self, form: Form) -> Form:
        """Makes a form one value, which takes one slot if a later call uses it."""
        value = Value(len(self._calls) - 1, "kept", form)
        self._calls[-1].kept.append(value)
        return Form.of(value)

    def sampler(
        self,
        x: Form,
        init_noise_sigma: SupportsFloat = 1,
        *,
        order: int = 1,
        variance: LearnedVariance | None = None,
    ) -> Sampler:
        """Ends the recording, and returns the sampler of it.

        Args:
          x: where the last call leads.
          init_noise_sigma: standard deviation of the first x.
          order: calls of the network in one step.
          variance: of the noise, where the network predicts it.

        Raises:
          UserError: a weight is not finite: the method does not work with these settings.
        """
        calls, levels = self._calls, [call.level for call in self._calls]
        calls[-1].leads_to = x
        state = state_tables(calls)
        broken = ~np.isfinite(state).all(axis=(1, 2))
        if broken.any():
            raise UserError(
                f"step {broken.argmax() + 1} of {len(calls)} is not finite: the sampler does not "
                "work with these settings of its config"
            )
        whole = all(isinstance(level.t, int | np.integer) for level in levels)
        t = np.array([level.t for level in levels], np.int32 if whole else np.float32)
        draws = np.array([call.draws for call in calls])
        return Sampler(
            grid=Grid(t, draws, np.float32(float(init_noise_sigma))),
            rows=Rows(
                scale=np.array([level.scale for level in levels], np.float32),
                to_x0=self._to_x0(),
                state=state.astype(np.float32),
            ),
            order=order,
            stochastic=bool(draws.any()),
            clip=self._clip,
            variance=variance,
        )

    def _to_x0(self) -> np.ndarray:
        """Returns the weights of x and of the output in the x̂_0 to clip; zeros without clipping."""
        weights = np.zeros((len(self._calls), 2), np.float32)
        if self._clip is not None:
            x, output = Value(0, "x"), Value(0, "output")
            for weight, call in zip(weights, self._calls, strict=True):
                form = predicted_x0(self.kind, call.level, Form.of(x), Form.of(output))
                weight[:] = form.weights.get(x, 0), form.weights.get(output, 0)
        return weights
