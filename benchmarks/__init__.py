"""landseg against the plain programs people write, in one run: `python -m benchmarks NAME`."""
