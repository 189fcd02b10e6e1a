"""Errors, units, records, files and other ground that every package stands on."""
