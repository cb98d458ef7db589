"""Generates a folder of images from prompts."""
