"""The optimizer of a run: a method, a learning rate for each leaf, and a schedule."""

from flax_sd.training.optim.build import Optimizer, make_optimizer
from flax_sd.training.optim.rates import learning_rate_at

__all__ = ["Optimizer", "learning_rate_at", "make_optimizer"]
