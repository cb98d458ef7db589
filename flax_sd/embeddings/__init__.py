"""New tokens (textual inversion): their files, and their way into a text encoder and tokenizer."""
