"""Turns records into an answer: what to train next, bags, contrasts, power, verdicts, warnings. Imports no jax."""
