"""Times this machine: the first training step and image, and those after them."""
