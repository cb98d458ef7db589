"""A training run, in the order of the data."""
