"""The networks, built from a checkpoint's own configs; a module's path is its checkpoint key."""
