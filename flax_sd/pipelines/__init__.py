"""What people do with a model in Python: load, generate, save."""
