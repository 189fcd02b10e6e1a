"""Audits of installed optimizers against float64 references, tests of claims, and trajectories on test functions."""
