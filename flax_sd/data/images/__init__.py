"""One picture, from the bytes of a file to pixels."""
