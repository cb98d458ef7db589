"""The forward process, and the files that describe it."""
