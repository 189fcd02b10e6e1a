"""Measurements made on this machine: storing them, and applying them to a recommendation."""
