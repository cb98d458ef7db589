"""What is typed: a command a file, or a folder where a command has parts of its own."""
