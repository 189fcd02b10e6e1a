"""Results as plots (matplotlib)."""
