"""Measurements of this package, one file a question: `python -m benchmarks.NAME` in the repository's directory."""
