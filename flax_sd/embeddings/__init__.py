"""New tokens (textual inversion): their files, and how they are attached to a model."""
