"""Spaces the σ of the steps by a rule of their own, in place of the timesteps' spacing."""

import dataclasses
from types import MappingProxyType
from typing import NamedTuple, SupportsFloat

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from flax_sd.errors import UserError

BETA = 0.6  # both parameters in Lee et al. 2024 (arXiv 2407.12173)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """The fields that choose the rule; at most one is true."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False

    @property
    def spread(self) -> str | None:
        """The rule's name, a key of `SPREADS`; None for the spacing of the timesteps.

        Raises:
          UserError: several fields are true.
        """
        chosen = [name for name in SPREADS if getattr(self, f"use_{name}_sigmas")]
        if len(chosen) > 1:
            names = " and ".join(f"use_{name}_sigmas" for name in chosen)
            raise UserError(f"{names} are true: choose one")
        return chosen[0] if chosen else None


class Ends(NamedTuple):
    """The σ between which a rule spaces σ; None for those that are visited without it."""

    largest: float | None = None
    smallest: float | None = None

    def or_else(self, largest: SupportsFloat, smallest: SupportsFloat) -> tuple[float, float]:
        """Returns the ends, with these in place of None."""
        return (
            float(largest if self.largest is None else self.largest),
            float(smallest if self.smallest is None else self.smallest),
        )


OWN_ENDS = Ends()  # those of what is visited


def karras(
    largest: float, smallest: float, n: int, *, rho: float = 7.0
) -> Float64[np.ndarray, " n"]:
    """Returns n values of σ, evenly spaced in σ^(1/ρ) (Karras et al. 2022, eq. 5)."""
    ends = largest ** (1 / rho), smallest ** (1 / rho)
    return (ends[0] + np.linspace(0, 1, n) * (ends[1] - ends[0])) ** rho


def exponential(largest: float, smallest: float, n: int) -> Float64[np.ndarray, " n"]:
    """Returns n values of σ, evenly spaced in log σ."""
    return np.exp(np.linspace(np.log(largest), np.log(smallest), n))


def beta(largest: float, smallest: float, n: int) -> Float64[np.ndarray, " n"]:
    """Returns n values of σ at quantiles of a Beta distribution, close together at both ends."""
    places = stats.beta.ppf(1 - np.linspace(0, 1, n), BETA, BETA)
    return smallest + places * (largest - smallest)


SPREADS = MappingProxyType({"karras": karras, "exponential": exponential, "beta": beta})


def sigma_to_t(
    sigma: Float[np.ndarray, " n"], log_sigmas: Float[np.ndarray, " T"]
) -> Float64[np.ndarray, " n"]:
    """Returns the fractional training timestep of each σ, by interpolation of log σ.

    Args:
      sigma: at least 0; a σ outside those of training has the timestep of the nearest.
      log_sigmas: of the training timesteps, rising.
    """
    log_sigma = np.log(np.maximum(sigma, 1e-10))
    # A search, and not np.interp: where rounding makes neighbours equal it takes the upper one.
    low = np.searchsorted(log_sigmas, log_sigma, side="right") - 1
    low = np.clip(low, 0, len(log_sigmas) - 2)
    start, end = np.float64(log_sigmas[low]), np.float64(log_sigmas[low + 1])
    return low + np.clip((start - log_sigma) / (start - end), 0, 1)
