"""Comparison and merging of benchmark results."""
