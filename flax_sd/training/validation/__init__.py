"""The loss of pictures that stay the same."""
