"""The methods: they turn gradients into directions, to be scaled by a learning rate and subtracted.

Those of `SELF_RATED` also estimate the step size; the learning rate scales their estimate.
"""

from collections.abc import Callable
from typing import NamedTuple

import optax
import optax.contrib

from flax_sd.config import OptimConfig
from flax_sd.training.optim.eight_bit import scale_by_adam_8bit
from flax_sd.training.optim.transforms import Beta, Number, scale_by_adam


class Method(NamedTuple):
    """A method by its name, with its numbers."""

    name: str
    beta1: Beta
    beta2: Beta
    epsilon: Number


def make_method(cfg: OptimConfig) -> Method:
    """Returns the method of a config; β₁ and β₂ that are unset are the method's own."""
    beta1, beta2 = (Beta.of(cfg.meant(name)) for name in ("beta1", "beta2"))
    return Method(cfg.method, beta1, beta2, cfg.epsilon)


def adamw(own: Method) -> optax.GradientTransformation:
    """Builds AdamW (Loshchilov & Hutter 2019, alg. 2), as torch.optim.AdamW."""
    return scale_by_adam(own.beta1, own.beta2, own.epsilon)


def adamw8bit(own: Method) -> optax.GradientTransformation:
    """Builds AdamW with its two means in 8 bits (Dettmers et al. 2022)."""
    return scale_by_adam_8bit(own.beta1, own.beta2, own.epsilon)


def lion(own: Method) -> optax.GradientTransformation:
    """Builds Lion (Chen et al. 2023, alg. 2), which needs a third to a tenth of AdamW's rate."""
    return optax.scale_by_lion(own.beta1.value, own.beta2.value)


def adafactor(own: Method) -> optax.GradientTransformation:
    """Builds Adafactor (Shazeer & Stern 2018, alg. 4) with a given learning rate.

    It is transformers' Adafactor with scale_parameter and relative_step off.
    """
    del own
    factored = optax.scale_by_factored_rms(min_dim_size_to_factor=2, epsilon=1e-30)
    return optax.chain(factored, optax.clip_by_block_rms(1.0))


def sgd(own: Method) -> optax.GradientTransformation:
    """Builds stochastic gradient descent with momentum β₁, as torch.optim.SGD."""
    return optax.trace(decay=own.beta1.value)


def muon(own: Method) -> optax.GradientTransformation:
    """Builds Muon (Jordan et al. 2024): orthogonal updates of matrices, Nesterov's Adam else."""
    whole = optax.contrib.muon(1.0, beta=own.beta1.value, adam_b2=own.beta2.value, eps=own.epsilon)
    return optax.chain(whole, optax.scale(-1.0))


def prodigy(
    own: Method, weight_decay: Number, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Builds Prodigy (Mishchenko & Defazio 2023, alg. 4)."""
    return optax.contrib.prodigy(
        schedule,
        betas=(own.beta1.value, own.beta2.value),
        eps=own.epsilon,
        weight_decay=weight_decay,
    )


def dadapt(
    own: Method, weight_decay: Number, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Builds D-Adaptation for Adam (Defazio & Mishchenko 2023, alg. 5)."""
    return optax.contrib.dadapt_adamw(
        schedule,
        betas=(own.beta1.value, own.beta2.value),
        eps=own.epsilon,
        weight_decay=weight_decay,
    )


DIRECTIONS: dict[str, Callable[[Method], optax.GradientTransformation]] = {
    "adamw": adamw,
    "adamw8bit": adamw8bit,
    "lion": lion,
    "adafactor": adafactor,
    "sgd": sgd,
    "muon": muon,
}
SELF_RATED: dict[str, Callable[[Method, Number, optax.Schedule], optax.GradientTransformation]] = {
    "prodigy": prodigy,
    "dadapt": dadapt,
}
