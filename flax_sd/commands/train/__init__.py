"""flax-sd train."""
