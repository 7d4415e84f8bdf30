"""What adapting to shifted test data and averaging weights gain on corrupted images: `python -m benchmarks adaptation`."""
