"""From a recommendation to runnable text."""
