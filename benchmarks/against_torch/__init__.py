"""Speed beside diffusers and torch, in turns on one machine."""
