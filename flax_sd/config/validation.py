"""Evaluation of the run on a fixed set of images."""

from typing import Annotated

from flax_sd.config.section import OUTPUT, Positive, Section


class ValidationConfig(Section):
    """Evaluations during the run."""

    every: Annotated[Positive | None, OUTPUT] = None
    """Steps between evaluations of the held-out images. They are those of data.held_out and
    data.held_out_base, and as many training images: if the loss of these falls and that of
    data.held_out does not, the run overfits. Unset evaluates before the first step and after the
    last. The state with the lowest val_loss is kept, and becomes a result beside the last one."""
    patience: Positive | None = None
    """Early stopping: end the run after this many consecutive evaluations without a significant
    improvement of val_loss since the last one (the 95 % interval of the change includes 0). Unset
    never ends it."""
