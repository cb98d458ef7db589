"""LoRA files: read, written, described and refused."""
