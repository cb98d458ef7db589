"""The two sides that benchmarks/against_torch/speed.py compares."""
