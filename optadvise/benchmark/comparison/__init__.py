"""Compare and merge benchmark results."""
