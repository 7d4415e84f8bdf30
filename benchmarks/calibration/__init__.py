"""How well the laboratory's intervals hold when everything is repeated: `python -m benchmarks calibration`."""
