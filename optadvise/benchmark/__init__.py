"""Measure what an optimizer costs on this machine."""
