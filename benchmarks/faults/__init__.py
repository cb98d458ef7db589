"""Runs that are killed, damaged or short of disk, and whether they end in the same bytes."""
