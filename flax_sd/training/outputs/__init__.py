"""The files that a run writes for other tools and for people."""
