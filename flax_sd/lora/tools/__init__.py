"""What is done to a whole LoRA."""
