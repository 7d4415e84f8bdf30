"""jbn against its peers and against the physical limit; see `python -m benchmarks.correctness --help`."""
