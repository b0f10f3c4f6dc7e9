"""Measured claims: `python -m benchmarks NAME` makes the figures that the documentation quotes."""
