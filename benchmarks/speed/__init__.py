"""How fast jbn is, against its peers and against the memory's limit: `python -m benchmarks speed`."""
