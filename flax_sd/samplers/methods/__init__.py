"""The samplers, one in each file."""
