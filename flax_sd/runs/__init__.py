"""Whole runs: what the commands do, in the order of the data."""
