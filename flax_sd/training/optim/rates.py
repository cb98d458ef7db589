"""Learning rates: the schedule of a run, and the rate of each leaf."""

import math
import re
from typing import NamedTuple

from flax_sd.config import OptimConfig
from flax_sd.errors import UserError
from flax_sd.training.optim.transforms import Number

POLYNOMIAL_END = 1e-7  # lr_end of diffusers' get_polynomial_decay_schedule_with_warmup
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def learning_rate_at(cfg: OptimConfig, step: int, total_steps: int) -> float:
    """Returns the learning rate of update number `step`, counted from 0."""
    return cfg.learning_rate * rate_factor(cfg, min(step, total_steps), total_steps)


def rate_factor(cfg: OptimConfig, step: int, total_steps: int) -> float:
    """Returns the rate at a step, relative to the peak.

    Schedules are those of diffusers' `optimization.py`; rex is Chen et al. 2021, eq. 4;
    constant_with_decay falls linearly over the last `decay_steps`.
    """
    warmup = cfg.warmup_steps
    if cfg.schedule == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if cfg.schedule == "constant_with_warmup":
        return 1.0
    if cfg.schedule == "constant_with_decay":
        decay_steps = total_steps // 10 if cfg.decay_steps is None else cfg.decay_steps
        return min(1.0, max(0, total_steps - step) / max(1, decay_steps))
    decay_steps = max(1, total_steps - warmup)
    if cfg.schedule == "linear":
        return max(0.0, (total_steps - step) / decay_steps)
    progress = (step - warmup) / decay_steps
    if cfg.schedule == "rex":
        left = max(0.0, 1 - progress)
        return left / (0.5 + 0.5 * left)
    if cfg.schedule == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * cfg.meant("cycles") * 2 * progress)))
    if cfg.schedule == "cosine_with_restarts":
        wave = 0.5 * (1 + math.cos(math.pi * ((cfg.meant("cycles") * progress) % 1)))
        return 0.0 if progress >= 1 else max(0.0, wave)
    end = POLYNOMIAL_END / cfg.learning_rate
    return end if step > total_steps else (1 - end) * (1 - progress) ** cfg.power + end


def check_schedule(cfg: OptimConfig) -> None:
    """Raises UserError if the schedule cannot fall from the learning rate."""
    if cfg.schedule == "polynomial" and cfg.learning_rate <= POLYNOMIAL_END:
        raise UserError(
            f"optim.learning_rate is {cfg.learning_rate:g}; schedule polynomial falls to "
            f"{POLYNOMIAL_END:g}, so it must be larger"
        )


class Rates(NamedTuple):
    """The peak rates and weight decays of leaves, by their dotted paths.

    Attributes:
      text_encoder_learning_rates: of the first and of the second text encoder.
      patterns: regular expressions; `factors` has one for each.
      lora_plus: factor of the up matrices of a LoRA.
    """

    learning_rate: Number
    text_encoder_learning_rates: tuple[Number, Number]
    lora_plus: Number
    patterns: tuple[str, ...]
    factors: tuple[Number, ...]
    weight_decay: Number
    text_encoder_weight_decay: Number

    @classmethod
    def of(cls, cfg: OptimConfig) -> "Rates":
        """Reads them from a config."""
        return cls(
            cfg.learning_rate,
            (cfg.meant("text_encoder_learning_rate"), cfg.meant("text_encoder_2_learning_rate")),
            cfg.lora_plus,
            tuple(cfg.rates),
            tuple(cfg.rates.values()),
            cfg.weight_decay,
            cfg.meant("text_encoder_weight_decay"),
        )

    def kind(self, path: str) -> tuple[int | None, int | None, bool]:
        """Returns what decides the rate of a leaf, such as unet.down_blocks.0…up."""
        found = (i for i, pattern in enumerate(self.patterns) if re.search(pattern, path))
        component = path.partition(".")[0]
        of_text = TEXT_ENCODERS.index(component) if component in TEXT_ENCODERS else None
        return of_text, next(found, None), path.endswith(".up")

    def peak(self, path: str) -> Number:
        """Returns the peak rate of a leaf."""
        of_text, pattern, up = self.kind(path)
        rates = self.text_encoder_learning_rates
        rate = self.learning_rate if of_text is None else rates[of_text]
        if pattern is not None:
            rate = rate * self.factors[pattern]
        return rate * self.lora_plus if up else rate

    def decay(self, path: str) -> Number:
        """Returns the weight decay of a leaf."""
        of_text, _, _ = self.kind(path)
        return self.weight_decay if of_text is None else self.text_encoder_weight_decay

    def check(self, paths: list[str]) -> None:
        """Raises UserError for patterns that match no leaf."""
        idle = [p for p in self.patterns if not any(re.search(p, path) for path in paths)]
        if idle:
            raise UserError(
                f"optim.rates: no trained parameter matches {', '.join(map(repr, idle))}; paths "
                f"look like {paths[0]} and {paths[-1]}"
            )
