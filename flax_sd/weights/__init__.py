"""Weights on disk: diffusers folders, safetensors files, hub downloads, and torch's layouts."""
