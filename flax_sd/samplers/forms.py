"""Linear forms: sums of the sampling loop's values, with weights that the host knows.

A method of sampling is written with them as in its paper, without a picture at hand.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import SupportsFloat

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array that the loop has at one call of the network, or keeps from there.

    Attributes:
      call: index of the call at which it is made.
      kind: "x", "output", "x0", "noise", or "kept".
      definition: what a kept value is, at that call.
    """

    call: int
    kind: str
    definition: "Form | None" = None


class Form:
    """A sum of values, each with its weight."""

    __array_ufunc__ = None  # so that a NumPy number times a form is a form

    def __init__(self, weights: Mapping[Value, float]):
        """Makes the sum; values of weight 0 are left out."""
        self.weights = MappingProxyType({v: w for v, w in weights.items() if w != 0})

    @classmethod
    def of(cls, value: Value) -> "Form":
        """Returns the form that is one value."""
        return cls({value: 1.0})

    def __add__(self, other: "Form") -> "Form":
        """Returns the sum of two forms."""
        both = dict(self.weights)
        for value, weight in other.weights.items():
            both[value] = both.get(value, 0.0) + weight
        return Form(both)

    def __sub__(self, other: "Form") -> "Form":
        """Returns the difference of two forms."""
        return self + other * -1

    def __mul__(self, factor: SupportsFloat) -> "Form":
        """Returns the form times a number."""
        return Form({value: weight * float(factor) for value, weight in self.weights.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: SupportsFloat) -> "Form":
        """Returns the form divided by a number."""
        return self * (1 / np.float64(float(divisor)))

    def expanded(self, call: int) -> "Form":
        """Returns the form in which values that this call keeps are what they are made of."""
        whole = Form({})
        for value, weight in self.weights.items():
            inner = value.definition if value.call == call else None
            whole += (Form.of(value) if inner is None else inner.expanded(call)) * weight
        return whole
