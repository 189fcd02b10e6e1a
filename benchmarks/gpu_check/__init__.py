"""Check of everything that requires a GPU: measurements beside their expected values."""
