"""Data sets as arrays, from the hub to the batch.

hub        reads a set of images with Hugging Face `datasets`, from a mirror folder or the hub
cache      stores the decoded arrays and memory-maps them; needs no jax, and `datasets` only for the first start
carve      splits validation data off the training part
parts      reads a set and splits it into its parts
arrays     standardizes the parts by the training part, and shuffles it by the seed
augment    random changes of images, on the device
"""
