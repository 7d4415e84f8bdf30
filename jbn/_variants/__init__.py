"""Variants of batch norm, one paper a file, each a small step on the same core."""
