"""The denoising loss: its error, its weights, the timesteps and the noise."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from flax_sd.config.section import Count, Positive, Rate, Section, Unset, refuse_idle

GAMMAS = {"min_snr": 5.0, "soft_min_snr": 4.0, "p2": 1.0}  # each paper's
Finite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LossConfig(Section):
    """The denoising loss; the held-out losses stay the plain mean squared error."""

    error: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    """Error function: squared, absolute, or squared while small and absolute when large, with the
    slope of the square (huber) or of the absolute (smooth_l1) as in sd-scripts."""
    huber_c: Annotated[float, Field(gt=0, le=1)] = 0.1  # sd-scripts'
    """Upper end of small errors: at every timestep (constant) or at the last one."""
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"  # sd-scripts'
    """Course of c from 1 at the first timestep to huber_c at the last: constant, exponential, or
    following the noise."""
    weight: Literal["none", "min_snr", "soft_min_snr", "debiased", "p2"] = "none"
    """Weighting of timesteps. min_snr and soft_min_snr give less weight to those with little
    noise."""
    gamma: Annotated[Finite | None, Unset(lambda own: GAMMAS.get(own.weight))] = None
    """Parameter of min_snr (unset: 5), soft_min_snr (unset: 4) and p2 (unset: 1)."""
    dream: Finite | None = None
    """Add a part of the network's own error to its input, for one more forward pass; 1 is the
    paper's, larger values rectify less at low noise (Zhou et al. 2023)."""

    @pydantic.model_validator(mode="after")
    def _no_idle_options(self) -> "LossConfig":
        huber = self.error in ("huber", "smooth_l1")
        refuse_idle(self, {"huber": huber, "gamma": self.weight not in ("none", "debiased")})
        return self


class TimestepsConfig(Section):
    """The distribution of the timesteps of a step."""

    sampling: Literal["uniform", "logit_normal", "earlier", "later", "range"] = "uniform"
    """Uniform; most from the middle (Esser et al. 2024, §3.1); or the reference script's bias
    towards the first or last bias_portion, or from bias_begin to bias_end."""
    first: Count = 0
    """Smallest timestep."""
    last: Count | None = None
    """Largest timestep; unset is the model's last."""
    stratified: bool = False
    """Spread the timesteps of a batch evenly over their distribution, for a less noisy loss."""
    logit_mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Mean of logit_normal: above 0, timesteps are noisier."""
    logit_std: Finite = 1.0
    """Standard deviation of logit_normal."""
    bias_multiplier: Finite = 1.0  # the reference script's, which changes nothing
    """Factor of the probability of the biased timesteps."""
    bias_portion: Annotated[float, Field(ge=0, le=1)] = 0.25  # the reference script's
    """Share of all timesteps that earlier and later favour."""
    bias_begin: Count = 0
    """First timestep of range."""
    bias_end: Positive | None = None
    """End of range, exclusive; unset is after the model's last timestep."""

    @pydantic.model_validator(mode="after")
    def _no_idle_options(self) -> "TimestepsConfig":
        sampling = self.sampling
        meaning = {
            "logit_": sampling == "logit_normal",
            "bias_multiplier": sampling in ("earlier", "later", "range"),
            "bias_portion": sampling in ("earlier", "later"),
            "bias_begin": sampling == "range",
            "bias_end": sampling == "range",
        }
        refuse_idle(self, meaning)
        return self


class NoiseConfig(Section):
    """The noise that is added; white by default."""

    offset: Rate = 0.0
    """Strength of a constant added to the noise for each image and channel (0.05 to 0.1 is usual),
    from which a model learns very dark and very bright images."""
    offset_random: bool = False  # the published offset is of one strength
    """Draw each image's strength between 0 and offset."""
    multires_steps: Count = 0
    """Number of ever coarser noise layers on top (6 to 10 is usual), for the same end; after an
    offset, as in sd-scripts, and the sum is divided by its standard deviation."""
    multires_discount: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Strength of each layer relative to the one before it."""
    input_perturbation: Rate = 0.0
    """Noise in the input that the target does not have (0.1 is usual; Ning et al. 2023)."""
    input_perturbation_random: bool = False  # the paper's is of one strength
    """Draw each image's strength between 0 and input_perturbation."""

    @pydantic.model_validator(mode="after")
    def _no_idle_options(self) -> "NoiseConfig":
        meaning = {
            "offset_random": self.offset > 0,
            "multires_discount": self.multires_steps > 0,
            "input_perturbation_random": self.input_perturbation > 0,
        }
        refuse_idle(self, meaning)
        return self
