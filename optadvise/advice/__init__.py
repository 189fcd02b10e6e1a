"""From a person's inputs to a recommendation."""
