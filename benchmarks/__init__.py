"""jbn against its peers and against the memory's bandwidth: `python -m benchmarks --help`."""
