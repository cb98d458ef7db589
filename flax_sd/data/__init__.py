"""Captioned images, from their files or tables to the batch of each step."""

from flax_sd.data.batches import Batch, Source, batches
from flax_sd.data.buckets import group_indices
from flax_sd.data.captions import drop_captions, has_random_captions
from flax_sd.data.check import Finding, check, duplicates_across, sort_findings
from flax_sd.data.dataset import Images, open_images
from flax_sd.data.masks import place_weights
from flax_sd.data.order import Order
from flax_sd.data.shards import Shard, find_all, find_shards, fingerprint, open_shard
from flax_sd.data.sources.records import Bad
from flax_sd.data.split import split
from flax_sd.data.stream import Counted, Stream
from flax_sd.data.summary import brief, summary

__all__ = [
    "Bad",
    "Batch",
    "Counted",
    "Finding",
    "Order",
    "Images",
    "Shard",
    "Source",
    "Stream",
    "group_indices",
    "batches",
    "check",
    "drop_captions",
    "find_all",
    "find_shards",
    "fingerprint",
    "sort_findings",
    "open_images",
    "open_shard",
    "place_weights",
    "duplicates_across",
    "split",
    "brief",
    "summary",
    "has_random_captions",
]
