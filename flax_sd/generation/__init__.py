"""Prompts in, a folder of pictures out."""
