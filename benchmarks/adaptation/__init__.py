"""What adapting to test batches and averaging weights gain on corrupted images: `python -m benchmarks adaptation`."""
