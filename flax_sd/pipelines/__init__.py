"""The Python interface to a model: load, generate, save."""
