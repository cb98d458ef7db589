"""A level of noise, and what the network's output means there."""

from typing import NamedTuple, SupportsFloat

import numpy as np

from flax_sd.samplers.forms import Form


class Level(NamedTuple):
    """A level of noise, x = signal · x_0 + sigma · ε, at a call of the network.

    Attributes:
      t: the timestep that the network is told.
      signal: √ᾱ_t, or 1 where x is x_0 + σ ε.
      sigma: √(1 - ᾱ_t), or σ.
      scale: the network is called with scale · x.
      data: deviation of the data, in EDM's preconditioning.
    """

    t: SupportsFloat
    signal: np.float64
    sigma: np.float64
    scale: np.float64 = np.float64(1)
    data: float = 1.0


def level_of(t: int | np.integer, alpha_cumprod: SupportsFloat) -> Level:
    """Returns the level of a training timestep, from its ᾱ_t."""
    a = np.float64(float(alpha_cumprod))
    return Level(t, np.sqrt(a), np.sqrt(1 - a))


def predicted_x0(kind: str, level: Level, x: Form, output: Form) -> Form:
    """Returns x̂_0 from x and the network's output.

    Args:
      kind: "epsilon", "sample", "v_prediction", "flow_prediction" for ε - x_0, where x is
        (1 - σ) x_0 + σ ε, or EDM's own "edm_epsilon" and "edm_v_prediction" (Karras et al. 2022,
        eq. 7), which differ in the sign of the output.
      level: the level of x.
      x: before its scaling.
      output: the network's output.
    """
    _, signal, sigma, scale, data = level
    if kind == "epsilon":
        return (x - output * sigma) / signal
    if kind == "sample":
        return output
    if kind == "flow_prediction":
        return x - output * sigma
    if kind == "edm_epsilon":
        output = output * -1
    # v is defined for an x of the data's deviation, and so of scale · x, where that is 1.
    return (x * (scale * data * signal) - output * sigma) * (scale * data)


def predicted_epsilon(kind: str, level: Level, x: Form, output: Form) -> Form:
    """Returns the noise ε̂ in x; the arguments are those of `predicted_x0`."""
    _, signal, sigma, scale, _ = level
    if kind == "epsilon":
        return output
    if kind == "flow_prediction":
        return x + output * signal
    if kind == "v_prediction":
        return (x * (scale * sigma) + output * signal) * scale
    return (x - predicted_x0(kind, level, x, output) * signal) / sigma
