"""Measure what an optimizer costs on this machine: statistics, workloads, worker processes."""
