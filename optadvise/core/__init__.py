"""Errors, units, records, files and other modules that all packages use."""
