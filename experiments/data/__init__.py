"""Data sets as arrays, from the hub to the batch.

hub        reads a set of images with Hugging Face `datasets`, from a mirror folder or the hub
cache      keeps the decoded arrays and maps them into memory; needs no jax, and `datasets` only the first time
carve      takes validation data from the training part
arrays     splits a set, standardizes it by its training part, and orders it by the seed
augment    changes images at random, on the device
"""
