"""LoRA: layers put into a network and taken out again, and the files that other tools exchange."""
