"""The methods: they turn gradients into directions, to be scaled by a learning rate and subtracted.

Those of `SELF_RATED` also estimate the step size; the learning rate scales their estimate.
"""

from collections.abc import Callable

import optax
import optax.contrib

from flax_sd.config import OptimConfig
from flax_sd.training.optim.eight_bit import scale_by_adam_8bit
from flax_sd.training.optim.transforms import scale_by_adam


def betas(cfg: OptimConfig) -> tuple[float, float]:
    """Returns β₁ and β₂: the config's, or else the method's defaults."""
    return cfg.meant("beta1"), cfg.meant("beta2")


def adamw(cfg: OptimConfig) -> optax.GradientTransformation:
    """Builds AdamW (Loshchilov & Hutter 2019, alg. 2), as torch.optim.AdamW."""
    return scale_by_adam(*betas(cfg), cfg.epsilon)


def adamw8bit(cfg: OptimConfig) -> optax.GradientTransformation:
    """Builds AdamW with its two means in 8 bits (Dettmers et al. 2022)."""
    return scale_by_adam_8bit(*betas(cfg), cfg.epsilon)


def lion(cfg: OptimConfig) -> optax.GradientTransformation:
    """Builds Lion (Chen et al. 2023, alg. 2), which needs a third to a tenth of AdamW's rate."""
    return optax.scale_by_lion(*betas(cfg))


def adafactor(cfg: OptimConfig) -> optax.GradientTransformation:
    """Builds Adafactor (Shazeer & Stern 2018, alg. 4) with a given learning rate.

    It is transformers' Adafactor with scale_parameter and relative_step off.
    """
    del cfg
    factored = optax.scale_by_factored_rms(min_dim_size_to_factor=2, epsilon=1e-30)
    return optax.chain(factored, optax.clip_by_block_rms(1.0))


def sgd(cfg: OptimConfig) -> optax.GradientTransformation:
    """Builds stochastic gradient descent with momentum β₁, as torch.optim.SGD."""
    return optax.trace(decay=betas(cfg)[0])


def muon(cfg: OptimConfig) -> optax.GradientTransformation:
    """Builds Muon (Jordan et al. 2024): orthogonal updates of matrices, Nesterov's Adam else."""
    beta1, beta2 = betas(cfg)
    whole = optax.contrib.muon(1.0, beta=beta1, adam_b2=beta2, eps=cfg.epsilon)
    return optax.chain(whole, optax.scale(-1.0))


def prodigy(cfg: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Builds Prodigy (Mishchenko & Defazio 2023, alg. 4)."""
    return optax.contrib.prodigy(
        schedule, betas=betas(cfg), eps=cfg.epsilon, weight_decay=cfg.weight_decay
    )


def dadapt(cfg: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Builds D-Adaptation for Adam (Defazio & Mishchenko 2023, alg. 5)."""
    return optax.contrib.dadapt_adamw(
        schedule, betas=betas(cfg), eps=cfg.epsilon, weight_decay=cfg.weight_decay
    )


DIRECTIONS: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adamw": adamw,
    "adamw8bit": adamw8bit,
    "lion": lion,
    "adafactor": adafactor,
    "sgd": sgd,
    "muon": muon,
}
SELF_RATED: dict[str, Callable[[OptimConfig, optax.Schedule], optax.GradientTransformation]] = {
    "prodigy": prodigy,
    "dadapt": dadapt,
}
