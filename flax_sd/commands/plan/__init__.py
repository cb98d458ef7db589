"""flax-sd plan."""
