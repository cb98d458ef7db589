"""Evaluation of a run on fixed images."""
