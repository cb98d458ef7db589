"""The commands: a file for each, or a folder for one with several files."""
