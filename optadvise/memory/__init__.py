"""Memory estimate: network descriptions, simulated training steps, optimizer state, breakdown, searches."""
