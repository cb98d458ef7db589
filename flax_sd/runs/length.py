"""How long a run is: steps, or epochs of its pictures."""

from flax_sd import data
from flax_sd.config import Config


def total_steps(config: Config, pictures: data.Pictures) -> int:
    """The smaller of train.steps and the steps of train.epochs."""
    train = config.train
    if train.epochs is None:
        return train.steps
    return min(train.steps, order_of(config, pictures).steps(train.epochs))


def describe(config: Config, pictures: data.Pictures) -> str:
    """The steps in words, and which option ends the run where there are two that may."""
    total, train = total_steps(config, pictures), config.train
    words = f"{total} steps"
    if config.data.stream:
        return words
    order = order_of(config, pictures)
    epoch = order.steps(1000) / 1000  # no whole number where batches go on into the next one
    words += f" of {train.batch_size}, {total / epoch:.3g} epochs"
    if train.epochs is None:
        return words
    if total == train.steps < order.steps(train.epochs):
        return f"{words}: train.steps ends the run before its {train.epochs} epochs (train.epochs)"
    return f"{words}: train.epochs ends the run"


def order_of(config: Config, pictures: data.Pictures) -> data.Order:
    """The order in which the run shows them."""
    return data.Order(pictures, config.train.batch_size, config.seed)
