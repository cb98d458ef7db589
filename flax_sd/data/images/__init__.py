"""One image, from the bytes of a file to pixels."""
