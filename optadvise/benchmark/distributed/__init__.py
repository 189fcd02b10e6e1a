"""Benchmark arms over several ranks."""
