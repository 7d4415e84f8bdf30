"""Trains one arm: the step, the loop over epochs, many seeds as one compiled program, checkpoints."""
