"""Measurements behind the design's numbers; each module is a command: `python -m benchmarks.listing --help`."""
