"""Measurements of this machine: stored, found again, and applied to an answer."""
