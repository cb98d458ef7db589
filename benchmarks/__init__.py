"""Benchmarks: `python -m benchmarks.against_torch.speed` from the root of a checkout."""
