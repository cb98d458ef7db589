"""Measuring the run on pictures that stay the same."""

from flax_sd.config.section import Positive, Section


class ValidationConfig(Section):
    """Measurements while the run goes on."""

    every: Positive | None = None
    """Steps between two measurements of data.held_out and data.held_out_base, and of as many
    training pictures: where those get better and data.held_out does not, the run learns by heart.
    Unset measures before the first step and after the last. The state with the least val_loss is
    kept, and ends as a result beside the last one."""
    patience: Positive | None = None
    """End the run after so many measurements in a row in which val_loss has not surely improved
    since the last that did: the 95 % interval of the change reaches 0. Unset never ends it."""
