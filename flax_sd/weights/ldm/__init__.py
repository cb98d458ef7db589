"""Checkpoints in one file, under the names of the latent diffusion code (LDM, and its sgm form).

`names` maps their tensors to diffusers' and transformers' names and back, `facts` tells what a file
is, `configs` writes the config.json files that it lacks, and `single_file` reads it as a model.
"""
