"""Weights on disk: diffusers folders, safetensors files, hub downloads. torch layouts live here."""
