"""One training step of a user's module under fake tensors: counted, not allocated."""
