"""flax-sd export."""
