"""Data sets as arrays: read from a mirror or the hub, cached, split, standardized, ordered and augmented."""
