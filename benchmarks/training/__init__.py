"""What batch norm and the laboratory cost in training: `python -m benchmarks network` and `laboratory`."""
