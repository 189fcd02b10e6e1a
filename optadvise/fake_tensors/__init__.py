"""Memory of a training step of a user's module, traced with fake tensors and without allocation."""
