"""Benchmarks: `python -m benchmarks denoise` and `python -m benchmarks engine`."""
