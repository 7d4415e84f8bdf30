"""How the cost of batch norm grows with its input: `python -m benchmarks growth`."""
