"""flax-sd inspect."""
