"""Captioned pictures, from wherever they lie to the batch of each step."""

from flax_sd.data.batches import Batch, Source, batches
from flax_sd.data.pictures import Pictures, open_pictures
from flax_sd.data.report import summary

__all__ = ["Batch", "Pictures", "Source", "batches", "open_pictures", "summary"]
