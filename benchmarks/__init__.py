"""Times normc against NumPy and torch, result by result checked first: python -m benchmarks."""
