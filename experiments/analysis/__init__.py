"""Turns records into an answer: tuning, comparisons, power, verdicts and warnings. Imports no jax."""
