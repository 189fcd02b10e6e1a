"""Results as standalone HTML pages."""
