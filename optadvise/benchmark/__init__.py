"""Benchmarks of optimizers on this machine: time, memory and loss."""
