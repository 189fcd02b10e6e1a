"""Results as an HTML page that stands alone."""
