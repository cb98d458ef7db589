"""From the pictures of a run to the batch of each step."""
