"""Reads, checks, writes and publishes run folders. No other room opens their files; this room imports no jax."""
