"""Data sets as arrays, from the hub to the batch.

hub        reads a set of images with Hugging Face `datasets`, from a mirror folder or the hub
cache      stores the decoded arrays and memory-maps them; needs no jax, and `datasets` only for the first start
carve      splits validation data off the training part
arrays     splits a set, standardizes it by its training part, and shuffles it by the seed
augment    random changes of images, on the device
"""
