"""Benchmarks: `python -m benchmarks NAME`, with figures in RESULTS.md and files in out/."""
