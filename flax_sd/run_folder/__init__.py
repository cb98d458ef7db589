"""A run's folder, file by file."""
