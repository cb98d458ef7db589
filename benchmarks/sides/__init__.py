"""The two sides that benchmarks/speed.py compares."""
