"""Adams and Bashforth's linear multistep method, for steps of one size."""

from collections.abc import Sequence

from flax_sd.samplers.forms import Form

WEIGHTS = (  # of one to four outputs, newest first
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def blended(outputs: Sequence[Form]) -> Form:
    """Returns what stands for the output over a whole step.

    Args:
      outputs: the last ones, newest first; up to four.
    """
    total = Form({})
    for weight, output in zip(WEIGHTS[len(outputs) - 1], outputs, strict=True):
        total += output * weight
    return total
