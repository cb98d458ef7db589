"""From the images of a run to the batch of each step."""
