"""Known defects of batch norms, measured in every installed library: `python -m benchmarks correctness`."""
